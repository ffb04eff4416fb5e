"""The volume that a map turns over, on the grid itself and not by one finite difference.

Liu, Chen, Wei, Carass and Prince, "On finite difference Jacobian computation in deformable image
registration", IJCV 2024 (doi:10.1007/s11263-024-02047-1): a map given at voxels is piecewise linear
on tetrahedra between them. It is a digital diffeomorphism where each tetrahedron keeps its
orientation; central differences miss most of those that do not.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from workflow.referee.metrics import determinant

SLAB = 4  # layers of cells at a time, so that arrays stay in the processor's cache

Corner = tuple[int, int, int]  # of a cell of 2x2x2 voxels, (x, y, z)


def _tetrahedra() -> Iterator[tuple[Corner, Corner, Corner, Corner]]:
    """Yield the ten tetrahedra of both ways to cut a cell into five, all of one orientation.

    Each way cuts off four corners that share no edge and leaves a tetrahedron in the middle.
    """
    middle: dict[int, list[Corner]] = {0: [], 1: []}
    for corner in np.ndindex(2, 2, 2):
        x, y, z = corner
        middle[sum(corner) % 2].append(corner)
        ends = [(1 - x, y, z), (x, 1 - y, z), (x, y, 1 - z)]
        yield (corner, *(ends if sum(corner) % 2 == 0 else ends[::-1]))
    for apexes in middle.values():
        edges = np.subtract(apexes[1:], apexes[0])
        a, b, c, d = apexes
        yield (a, b, c, d) if np.linalg.det(edges) > 0 else (a, c, b, d)


TETRAHEDRA = tuple(_tetrahedra())


def folded_volume_percent(mapping: np.ndarray) -> float:
    """Return the non-diffeomorphic volume in % of the grid's (NDV).

    The volume of all tetrahedra that a map turns over, in the moving grid's voxels; the mean of the
    two ways to cut the cells.

    Parameters
    ----------
    mapping : the composed map ``(3, z, y, x)``, components (x, y, z), in voxels of the moving grid.
    """
    layers = mapping.shape[1] - 1
    turned = 0.0
    for start in range(0, layers, SLAB):
        slab = mapping[:, start : min(start + SLAB, layers) + 1]
        for tetrahedron in TETRAHEDRA:
            origin, *ends = (_at(slab, corner) for corner in tetrahedron)
            sixfold = determinant(np.stack([end - origin for end in ends]))
            turned -= np.minimum(sixfold, 0).sum(dtype=np.float64)
    cells = np.prod(np.subtract(mapping.shape[1:], 1))
    return float(100 * turned / 6 / 2 / cells)


def _at(mapping: np.ndarray, corner: Corner) -> np.ndarray:
    """Return a map at one corner of every cell."""
    x, y, z = (slice(c, c - 1 or None) for c in corner)
    return mapping[:, z, y, x]
