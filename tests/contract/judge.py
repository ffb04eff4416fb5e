"""What the contract test holds against a method, in words: no array is ever printed."""

import signal
from contextlib import contextmanager

import numpy as np
import pytest
import SimpleITK as sitk


def changes(grid):
    """Return what may be wrong with a field, and how its vectors ``(3, z, y, x)`` become right."""
    direction, spacing = np.reshape(grid.GetDirection(), (3, 3)), np.array(grid.GetSpacing())
    index = np.stack(np.meshgrid(*(np.arange(n) for n in grid.GetSize()), indexing="ij"))
    index = index.transpose(0, 3, 2, 1)

    def by(matrix):
        return lambda u: np.einsum("ij,jzyx->izyx", matrix, u)

    places = by(direction * spacing)(index) + np.reshape(grid.GetOrigin(), (3, 1, 1, 1))
    return {
        "its sign turned": lambda u: -u,
        "its components in the order x, y, z (they seem to be z, y, x)": lambda u: u[::-1],
        "its components as LPS (they seem to be RAS)": by(np.diag([-1.0, -1.0, 1.0])),
        "mm (it seems to be in voxels of LPS axes)": by(np.diag(spacing)),
        "mm along LPS (it seems to be in voxels along the grid's axes)": by(direction * spacing),
        "LPS (it seems to be mm along the grid's axes)": by(direction),
        "displacements (they seem to be positions)": lambda u: u - places,
    }


def judge_field(displacement, truth, inside, tolerance_mm):
    """Fail unless a field is finite and the true one where `inside` says so.

    Where one single change makes it right, the failure says which.

    Parameters
    ----------
    truth : vectors ``(3, z, y, x)``, or one ``(3, 1, 1, 1)`` for all places, mm, LPS.
    tolerance_mm : of the mean error.
    """
    vectors = np.moveaxis(sitk.GetArrayFromImage(displacement), -1, 0)
    bad = int((~np.isfinite(vectors)).any(axis=0).sum())
    if bad:
        fail(f"the field has {bad} vectors of {vectors[0].size} that are NaN or infinite")

    def error_mm(field):
        return float(np.linalg.norm(field - truth, axis=0)[inside].mean())

    if error_mm(vectors) < tolerance_mm:
        return
    errors = {name: error_mm(change(vectors)) for name, change in changes(displacement).items()}
    best = min(errors, key=errors.get)
    hint = f"; it would be right with {best}" if errors[best] < tolerance_mm else ""
    means = (
        np.broadcast_to(field, vectors.shape)[:, inside].mean(axis=1).round(2).tolist()
        for field in (vectors, truth)
    )
    fail("the field is {} mm in the mean, the true one {}".format(*means) + hint)


def fail(text):
    pytest.fail(text, pytrace=False)


@contextmanager
def time_limit(seconds, what):
    """Fail if a block takes longer; programs that it waits for are ended with it."""

    def stop(*_):
        fail(f"{what} took more than {seconds / 60:g} min and was stopped")

    kept = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, kept)
