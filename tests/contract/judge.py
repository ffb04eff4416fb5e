"""What the contract test holds against a method, in words: no array is ever printed."""

import signal
from contextlib import contextmanager

import numpy as np
import pytest
import SimpleITK as sitk

from avsm.grid import describe_grid, same_grid
from workflow.geometry import vector_image

# Tools sample in float32 or store rounded matrices, and may treat the outermost voxels differently.
WARP_TOLERANCE = 0.004


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


def warp_difference(moving, displacement, own):
    """Return the mean difference to a method's own image, which may be a cubic interpolation."""
    inner = (slice(2, -2),) * 3
    theirs = sitk.GetArrayFromImage(own)[inner]
    field = sitk.DisplacementFieldTransform(sitk.Cast(displacement, sitk.sitkVectorFloat64))
    ours = (sitk.Resample(moving, own, field, kind) for kind in (sitk.sitkLinear, sitk.sitkBSpline))
    return min(np.abs(sitk.GetArrayFromImage(image)[inner] - theirs).mean() for image in ours)


def judge_field(displacement, fixed, moving, own):
    """Fail unless a field is finite and warps the moving image as the method itself does.

    Where one single change makes it right, the failure says which.
    """
    vectors = np.moveaxis(sitk.GetArrayFromImage(displacement), -1, 0)
    bad = int((~np.isfinite(vectors)).any(axis=0).sum())
    if bad:
        fail(f"the field has {bad} vectors of {vectors[0].size} that are NaN or infinite")
    if not same_grid(own, fixed):
        fail(f"its own image is on {describe_grid(own)}, expected {describe_grid(fixed)}")
    if not np.isfinite(sitk.GetArrayViewFromImage(own)).all():
        fail("its own image has values that are NaN or infinite")
    found = warp_difference(moving, displacement, own)
    if found < WARP_TOLERANCE:
        return
    others = {
        name: warp_difference(moving, vector_image(change(vectors), fixed), own)
        for name, change in changes(fixed).items()
    }
    best = min(others, key=others.get)
    hint = f"; it does with {best}" if others[best] < WARP_TOLERANCE else ""
    fail(
        f"the field does not give the method's own image: they differ by {found:.4f} in the mean, "
        f"expected less than {WARP_TOLERANCE}{hint}"
    )


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
