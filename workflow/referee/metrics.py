"""The benchmark's measures; each is defined once, here, for all methods.

Arrays are ``(z, y, x)``; maps are ``(3, z, y, x)`` with components (x, y, z), take fixed index to
moving index (`workflow.geometry.index_map`) and so are free of headers and units. Grids have
orthogonal axes, so that distances do not depend on a grid's direction.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from scipy.ndimage import binary_erosion, distance_transform_edt, find_objects, map_coordinates

LOG_MARGIN = 2  # voxels that Learn2Reg leaves out at each face
SLAB = 4  # layers of cells at a time, so that arrays stay in the processor's cache
MOST_POINTS = 3000  # whose target error is measured
STEPS = 60  # in search of a true point
CLOSE = 0.01  # mm of the template, within which the true point must be found

Corner = tuple[int, int, int]  # of a cell of 2x2x2 voxels, (x, y, z)
ToTemplate = Callable[[np.ndarray], np.ndarray]  # indices (N, 3), (x, y, z), to points in mm


def dice(a: np.ndarray, b: np.ndarray) -> float:
    """Return 2 |A and B| / (|A| + |B|) of two masks; NaN if both are empty (Dice 1945)."""
    total = int(np.count_nonzero(a)) + int(np.count_nonzero(b))
    return 2 * int(np.count_nonzero(a & b)) / total if total else float("nan")


def surface_measures(a: np.ndarray, b: np.ndarray, spacing: Sequence[float]) -> dict[str, float]:
    """Measure the distance in mm between two masks' surfaces; `spacing` is in mm, (z, y, x).

    `hd95` is the larger of the two directions' 95th percentiles of the distances, `assd` the mean
    distance over all voxels of both surfaces. Both are NaN if both masks are empty, and the
    diagonal of the volume if one is: a structure that was lost is the worst result, not a missing
    one.
    """
    if not a.any() and not b.any():
        return {"hd95": float("nan"), "assd": float("nan")}
    if not a.any() or not b.any():
        diagonal = float(np.linalg.norm(np.multiply(a.shape, spacing)))
        return {"hd95": diagonal, "assd": diagonal}
    there, back = surface_distances(a, b, spacing)
    return {
        "hd95": float(max(np.percentile(there, 95), np.percentile(back, 95))),
        "assd": float(np.concatenate([there, back]).mean()),
    }


def surface_distances(
    a: np.ndarray, b: np.ndarray, spacing: Sequence[float]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the mm from a's surface voxels to b's surface, and back; neither mask is empty.

    A surface voxel is one of the mask with a face neighbour outside of it; beyond the volume is
    outside. So the least box about both masks has the surfaces of the whole volume.
    """
    (box,) = find_objects((a | b).view(np.uint8))
    surfaces = [mask[box] & ~binary_erosion(mask[box]) for mask in (a, b)]
    to_a, to_b = (distance_transform_edt(~surface, sampling=spacing) for surface in surfaces)
    return to_b[surfaces[0]], to_a[surfaces[1]]


def warp_labels(labels: np.ndarray, mapping: np.ndarray) -> np.ndarray:
    """Pull a moving label map through a map by nearest neighbour; outside is background."""
    size = np.array(labels.shape[::-1], np.float32).reshape(3, 1, 1, 1)
    # Half-way points go up, as in ITK's nearest-neighbour interpolation.
    nearest = np.floor(mapping + 0.5)
    inside = ((nearest >= 0) & (nearest < size)).all(axis=0)
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
    """Measure how regular a map, its affine part included, is by its Jacobian.

    `volume_ratio` is moving / fixed voxel volume, which makes determinants physical.

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
    inner = np.clip(det[(slice(LOG_MARGIN, -LOG_MARGIN),) * 3] + 3.0, 1e-9, 1e9)
    return {
        "folds": int(negative.sum()),
        "folds_abs": float(-det[negative].sum(dtype=np.float64)),
        "folds_diagonal": int((jac[0, 0] * jac[1, 1] * jac[2, 2] < 0).sum()),
        "nonpositive_percent": 100 * float((det <= 0).mean()),
        "sdlogj": float(np.log(inner).std(dtype=np.float64)) if inner.size else float("nan"),
    }


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
    for a, b, c, d in middle.values():
        edges = np.subtract([b, c, d], a)
        yield (a, b, c, d) if np.linalg.det(edges) > 0 else (a, c, b, d)


TETRAHEDRA = tuple(_tetrahedra())


def folded_volume_percent(mapping: np.ndarray) -> float:
    """Return the non-diffeomorphic volume (NDV) of a composed map in % of the grid's.

    A map given at voxels is piecewise linear on tetrahedra between them, and a digital
    diffeomorphism where each keeps its orientation; central differences miss most of those that do
    not (Liu, Chen, Wei, Carass and Prince, "On finite difference Jacobian computation in deformable
    image registration", IJCV 2024, doi:10.1007/s11263-024-02047-1). NDV is the volume of all that a
    map turns over, in voxels of the moving grid; the mean of the two ways to cut the cells.
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


def inverse_consistency(
    forward: np.ndarray, backward: np.ndarray, spacing: Sequence[float], margin: int
) -> dict[str, float]:
    """Measure by how much there and back misses the start, over the interior of the fixed grid.

    `forward` and `backward` are the maps of both registrations, `spacing` is that of the fixed grid
    in mm (x, y, z), and `margin` voxels are left out at each face (paper, section 3: 10). Lower is
    better; both measures are NaN if the margin leaves no voxel.

    symmetry : the paper's ``ln(1/|V| ||phi o phi_ts - id||^2)``, in its units: each axis of the
        volume has length 1.
    inverse_error : the mean distance in mm.
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
    points = forward[(slice(None), *[slice(margin, n - margin) for n in forward.shape[1:]])]
    grid = np.indices(backward.shape[1:], dtype=np.float32)
    fixed = np.indices(points.shape[1:], dtype=np.float32) + np.float32(margin)
    error = np.empty_like(points)
    for axis in range(3):
        # The displacement is interpolated, not the map, so that the border clamps it rightly.
        moved = map_coordinates(
            backward[axis] - grid[2 - axis], points[::-1], order=1, mode="nearest"
        )
        error[axis] = moved + points[axis] - fixed[2 - axis]
    return error


def target_error(
    mask: np.ndarray,
    mapping: np.ndarray,
    fixed_to_template: ToTemplate,
    moving_to_template: ToTemplate,
    moving_matrix: np.ndarray,
) -> float:
    """Return the mean distance in mm between where a map takes points and where they truly are.

    Points are at most `MOST_POINTS` voxels of the fixed `mask`, evenly chosen; those whose true
    place cannot be found are left out; NaN without any. The indices of both scans are taken to
    anatomical points of one template, and moving ones by `moving_matrix` (3, 3) to mm.
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

    Quasi-Newton steps with the matrix of an affine fit to the whole map, which is made over about
    the grid's `size` in voxels (x, y, z).
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
