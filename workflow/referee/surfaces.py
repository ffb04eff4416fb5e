"""Distances between the surfaces of two label maps on one grid, in mm."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import binary_erosion, distance_transform_edt

PERCENTILE = 95


def surface_distances(
    a: np.ndarray, b: np.ndarray, spacing: Sequence[float]
) -> tuple[np.ndarray, np.ndarray]:
    """Return how far each surface voxel of one mask is from the other's surface, both ways.

    A surface voxel is one of the mask with a face neighbour outside of it; beyond the volume is
    outside. Axes are orthogonal, so that distances do not depend on the grid's direction.

    Parameters
    ----------
    a, b : masks ``(z, y, x)``, neither empty.
    spacing : mm, in the order of the axes (z, y, x).

    Returns
    -------
    Distances in mm from a's surface to b's, and from b's to a's, between voxel centres.
    """
    box = _bounding_box(a | b)
    surfaces = [mask[box] & ~binary_erosion(mask[box]) for mask in (a, b)]
    to_a, to_b = (distance_transform_edt(~surface, sampling=spacing) for surface in surfaces)
    return to_b[surfaces[0]], to_a[surfaces[1]]


def _bounding_box(mask: np.ndarray) -> tuple[slice, ...]:
    """Return the least box about a mask that is not empty.

    Eroding in it finds the surfaces of the whole volume: beyond it is background anyway.
    """
    box = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        (found,) = np.nonzero(mask.any(axis=others))
        box.append(slice(int(found[0]), int(found[-1]) + 1))
    return tuple(box)


def surface_measures(a: np.ndarray, b: np.ndarray, spacing: Sequence[float]) -> dict[str, float]:
    """Measure the distance between two masks' surfaces.

    Parameters
    ----------
    a, b : masks ``(z, y, x)``.
    spacing : mm, in the order of the axes (z, y, x).

    Returns
    -------
    hd95 : mm; the larger of the two directions' 95th percentiles of the distances.
    assd : mm; the mean distance over all voxels of both surfaces.

    Both are NaN if both masks are empty, and the diagonal of the volume if one is: a structure that
    was lost is the worst result, not a missing one.
    """
    if not a.any() and not b.any():
        return {"hd95": float("nan"), "assd": float("nan")}
    if not a.any() or not b.any():
        diagonal = float(np.linalg.norm(np.multiply(a.shape, spacing)))
        return {"hd95": diagonal, "assd": diagonal}
    there, back = surface_distances(a, b, spacing)
    return {
        "hd95": float(max(np.percentile(there, PERCENTILE), np.percentile(back, PERCENTILE))),
        "assd": float(np.concatenate([there, back]).mean()),
    }
