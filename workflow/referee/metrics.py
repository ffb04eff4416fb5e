"""The benchmark's measures; each is defined once, here, for all methods.

Arrays are ``(z, y, x)``; maps are ``(3, z, y, x)`` with components (x, y, z), take fixed index to
moving index (`workflow.geometry.index_map`) and so are free of headers and units.
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import map_coordinates


def dice(a: np.ndarray, b: np.ndarray) -> float:
    """Return 2 |A and B| / (|A| + |B|) of two masks; NaN if both are empty (Dice 1945)."""
    total = int(np.count_nonzero(a)) + int(np.count_nonzero(b))
    return 2 * int(np.count_nonzero(a & b)) / total if total else float("nan")


def warp_labels(labels: np.ndarray, mapping: np.ndarray) -> np.ndarray:
    """Pull a moving label map through a map by nearest neighbour; outside is background."""
    size = np.array(labels.shape[::-1])
    # Half-way points go up, as in ITK's nearest-neighbour interpolation.
    nearest = np.floor(mapping + 0.5)
    inside = np.ones(mapping.shape[1:], dtype=bool)
    for axis in range(3):
        inside &= (nearest[axis] >= 0) & (nearest[axis] <= size[axis] - 1)
    warped = np.zeros(mapping.shape[1:], dtype=labels.dtype)
    x, y, z = (component[inside].astype(np.intp) for component in nearest)
    warped[inside] = labels[z, y, x]
    return warped


def jacobian(mapping: np.ndarray) -> np.ndarray:
    """Return the derivatives of a map, ``(3, 3, z, y, x)``: entry [i, j] is d phi_i / d x_j.

    Central differences, one-sided at the faces, in voxels. Multiplied by a positive constant (the
    ratio of the two grids' voxel volumes) its determinant is the physical one.
    """
    # np.gradient's axes are (z, y, x); j counts x, y, z.
    return np.stack([np.stack(np.gradient(component)[::-1]) for component in mapping])


def determinant(jac: np.ndarray) -> np.ndarray:
    """Return the determinants ``(z, y, x)`` of ``(3, 3, z, y, x)``."""
    (a, b, c), (d, e, f), (g, h, i) = jac
    return a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)


def folds(mapping: np.ndarray, volume_ratio: float = 1.0) -> dict[str, float]:
    """Count the folds of a map: the full Jacobian determinant, and the authors' shortcut.

    Parameters
    ----------
    mapping : the composed map, affine part included.
    volume_ratio : moving voxel volume / fixed voxel volume, which makes determinants physical.

    Returns
    -------
    folds : voxels with a negative determinant (paper, section 3).
    folds_abs : sum of the determinants' absolute values over those voxels (the paper's brackets).
    folds_diagonal : voxels with a negative *product of the three diagonal derivatives*, which
        is what the authors' code counts for learned methods; for comparison only.
    """
    jac = jacobian(mapping)
    det = determinant(jac) * np.float32(volume_ratio)
    negative = det < 0
    return {
        "folds": int(negative.sum()),
        "folds_abs": float(-det[negative].sum(dtype=np.float64)),
        "folds_diagonal": int((jac[0, 0] * jac[1, 1] * jac[2, 2] < 0).sum()),
    }


def symmetry(forward: np.ndarray, backward: np.ndarray, margin: int) -> float:
    """Return ``ln(1/|V| ||phi o phi_ts - id||^2)`` over the interior of the fixed grid.

    Parameters
    ----------
    forward : map from fixed to moving index.
    backward : map from moving to fixed index, of the registration with roles swapped.
    margin : voxels left out at each face (paper, section 3: 10).

    Returns
    -------
    The natural logarithm of the mean squared distance, in the paper's units: each axis of the
    volume has length 1. Lower is better; NaN if the margin leaves no voxel. Points that leave
    the moving grid take its nearest border voxel's displacement.
    """
    size = np.array(forward.shape[:0:-1])
    if (size <= 2 * margin).any():
        return float("nan")
    inner = (slice(None), *[slice(margin, n - margin) for n in forward.shape[1:]])
    grid = np.meshgrid(*[np.arange(n, dtype=np.float32) for n in backward.shape[1:]], indexing="ij")
    fixed = np.meshgrid(
        *[np.arange(margin, n - margin, dtype=np.float32) for n in forward.shape[1:]],
        indexing="ij",
    )
    points = forward[inner]
    squared = 0.0
    for axis in range(3):
        # The displacement is interpolated, not the map, so that the border clamps it rightly.
        moved = map_coordinates(
            backward[axis] - grid[2 - axis], points[::-1], order=1, mode="nearest"
        )
        error = (moved + points[axis] - fixed[2 - axis]) / (size[axis] - 1)
        squared += np.mean(np.square(error, dtype=np.float64))
    return float(np.log(squared)) if squared > 0 else float("-inf")
