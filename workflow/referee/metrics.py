"""The benchmark's measures; each is defined once, here, for all methods.

Arrays are ``(z, y, x)``; maps are ``(3, z, y, x)`` with components (x, y, z), take fixed index to
moving index (`workflow.geometry.index_map`) and so are free of headers and units.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import map_coordinates

LOG_MARGIN = 2  # voxels that Learn2Reg leaves out at each face


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


def regularity(mapping: np.ndarray, volume_ratio: float = 1.0) -> dict[str, float]:
    """Measure how regular a map is by its Jacobian; count its folds, and by the authors' shortcut.

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
    nonpositive_percent : voxels whose determinant is not positive, in %.
    sdlogj : standard deviation of ln(determinant + 3), 2 voxels left out at each face: Learn2Reg's
        form, whose 3 keeps the logarithm defined where maps fold; NaN if that leaves no voxel.
    """
    jac = jacobian(mapping)
    det = determinant(jac) * np.float32(volume_ratio)
    negative = det < 0
    return {
        "folds": int(negative.sum()),
        "folds_abs": float(-det[negative].sum(dtype=np.float64)),
        "folds_diagonal": int((jac[0, 0] * jac[1, 1] * jac[2, 2] < 0).sum()),
        "nonpositive_percent": 100 * float((det <= 0).mean()),
        "sdlogj": _sd_log_jacobian(det),
    }


def _sd_log_jacobian(det: np.ndarray) -> float:
    inner = det[(slice(LOG_MARGIN, -LOG_MARGIN),) * 3]
    if not inner.size:
        return float("nan")
    return float(np.log(np.clip(inner + 3.0, 1e-9, 1e9)).std(dtype=np.float64))


def inverse_consistency(
    forward: np.ndarray, backward: np.ndarray, spacing: Sequence[float], margin: int
) -> dict[str, float]:
    """Measure by how much there and back misses the start, over the interior of the fixed grid.

    Parameters
    ----------
    forward : map from fixed to moving index.
    backward : map from moving to fixed index, of the registration with roles swapped.
    spacing : of the fixed grid, mm (x, y, z); its axes are orthogonal.
    margin : voxels left out at each face (paper, section 3: 10).

    Returns
    -------
    symmetry : the paper's ``ln(1/|V| ||phi o phi_ts - id||^2)``, in its units: each axis of the
        volume has length 1.
    inverse_error : the mean distance in mm.

    Lower is better; both are NaN if the margin leaves no voxel.
    """
    size = np.array(forward.shape[:0:-1])
    if (size <= 2 * margin).any():
        return {"symmetry": float("nan"), "inverse_error": float("nan")}
    error = _round_trip(forward, backward, margin)
    scaled = error / (size - 1).reshape(3, 1, 1, 1)
    squared = np.square(scaled, dtype=np.float64).sum(axis=0).mean()
    distance = np.linalg.norm(error * np.reshape(spacing, (3, 1, 1, 1)), axis=0)
    return {
        "symmetry": float(np.log(squared)) if squared > 0 else float("-inf"),
        "inverse_error": float(distance.mean()),
    }


def _round_trip(forward: np.ndarray, backward: np.ndarray, margin: int) -> np.ndarray:
    """Return ``backward(forward(i)) - i`` in fixed voxels, components (x, y, z), in the interior.

    Points that leave the moving grid take its nearest border voxel's displacement.
    """
    inner = (slice(None), *[slice(margin, n - margin) for n in forward.shape[1:]])
    grid = np.meshgrid(*[np.arange(n, dtype=np.float32) for n in backward.shape[1:]], indexing="ij")
    fixed = np.meshgrid(
        *[np.arange(margin, n - margin, dtype=np.float32) for n in forward.shape[1:]],
        indexing="ij",
    )
    points = forward[inner]
    error = np.empty_like(points)
    for axis in range(3):
        # The displacement is interpolated, not the map, so that the border clamps it rightly.
        moved = map_coordinates(
            backward[axis] - grid[2 - axis], points[::-1], order=1, mode="nearest"
        )
        error[axis] = moved + points[axis] - fixed[2 - axis]
    return error
