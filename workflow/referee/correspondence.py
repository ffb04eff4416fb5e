"""Target registration error where the true correspondence of two scans is known."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

MOST_POINTS = 3000  # of a pair
STEPS = 60
CLOSE = 0.01  # mm of the template, within which the true point must be found

ToTemplate = Callable[[np.ndarray], np.ndarray]  # indices (N, 3), (x, y, z), to points in mm


def target_error(
    mask: np.ndarray,
    mapping: np.ndarray,
    fixed_to_template: ToTemplate,
    moving_to_template: ToTemplate,
    moving_matrix: np.ndarray,
) -> float:
    """Return the mean distance in mm between where a map takes points and where they truly are.

    Parameters
    ----------
    mask : fixed voxels to look at, ``(z, y, x)``; at most `MOST_POINTS`, evenly chosen.
    mapping : map from fixed to moving index, ``(3, z, y, x)``, components (x, y, z).
    fixed_to_template, moving_to_template : take indices ``(N, 3)`` to anatomical points, mm.
    moving_matrix : ``(3, 3)``, from moving index to mm.

    Returns
    -------
    NaN if the mask is empty. Points whose true place cannot be found are left out.
    """
    voxels = np.argwhere(mask)
    voxels = voxels[:: max(1, -(-len(voxels) // MOST_POINTS))]
    if not len(voxels):
        return float("nan")
    found = mapping[:, voxels[:, 0], voxels[:, 1], voxels[:, 2]].T.astype(float)
    target = fixed_to_template(voxels[:, ::-1])
    truth, missed = invert(moving_to_template, target, np.array(mask.shape[::-1]))
    known = missed < CLOSE
    if not known.any():
        return float("nan")
    error = np.linalg.norm((found - truth)[known] @ moving_matrix.T, axis=1)
    return float(error.mean())


def invert(
    to_template: ToTemplate, target: np.ndarray, size: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Find the indices ``(N, 3)`` of anatomical points, and by how many mm they miss these.

    Quasi-Newton steps with the matrix of an affine fit to the whole map.

    Parameters
    ----------
    target : points of the template, mm.
    size : about the grid's voxels (x, y, z), over which the fit is made.
    """
    sample = np.random.default_rng(0).uniform(0, size, (500, 3))
    ones = np.ones((500, 1))
    fit = np.linalg.lstsq(np.hstack([to_template(sample), ones]), sample, rcond=None)[0]
    index = target @ fit[:3] + fit[3]
    for _ in range(STEPS):
        missed = target - to_template(index)
        if np.abs(missed).max() < CLOSE / 10:
            break
        index = index + missed @ fit[:3]
    return index, np.linalg.norm(target - to_template(index), axis=1)
