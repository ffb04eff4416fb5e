"""Frames and the conversions between them; every change of axis, unit or direction is here.

Frames
------
index
    Continuous voxel index (i, j, k) of a grid, ITK order: x fastest.
physical
    Millimetres, LPS (ITK): ``x = origin + A @ index`` with ``A = direction @ diag(spacing)``.
RAS
    Millimetres as NIfTI and NiftyReg see them: ``x_ras = diag(-1, -1, 1) @ x_lps``.
stripped
    Physical, of a copy whose header says spacing 1, origin 0, axes LPS: its index.

Arrays follow NumPy's order of SimpleITK, ``(z, y, x)``; the components of vectors are always
``(x, y, z)``. All maps are pull-back maps: they take points of the fixed grid to the moving one.
"""

import numpy as np
import SimpleITK as sitk

from avsm.grid import index_to_physical, like
from avsm.volume import LPS_FROM_RAS, corners


def strip_header(image: sitk.Image) -> sitk.Image:
    """Return a copy whose physical frame is its index frame (spacing 1, origin 0, axes LPS)."""
    stripped = sitk.Image(image)
    stripped.SetSpacing((1.0, 1.0, 1.0))
    stripped.SetOrigin((0.0, 0.0, 0.0))
    stripped.SetDirection(np.eye(3).ravel())
    return stripped


def index_grid(grid: sitk.Image) -> np.ndarray:
    """Return each voxel's own index, float32 ``(3, z, y, x)``, components (x, y, z)."""
    zyx = np.indices(grid.GetSize()[::-1], dtype=np.float32)
    return np.ascontiguousarray(zyx[::-1])


def vector_image(vectors: np.ndarray, grid: sitk.Image) -> sitk.Image:
    """Turn ``(3, z, y, x)`` into a float32 vector image with the geometry of `grid`."""
    return like(np.ascontiguousarray(np.moveaxis(vectors, 0, -1), dtype=np.float32), grid)


def _vectors(image: sitk.Image) -> np.ndarray:
    """Return the vectors of an image, float32 ``(3, z, y, x)``."""
    moved = np.moveaxis(sitk.GetArrayViewFromImage(image), -1, 0)
    return np.ascontiguousarray(moved, dtype=np.float32)


def _apply(matrix: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Multiply every vector of ``(3, …)`` by ``matrix (3, 3)``, in float32."""
    flat = np.asarray(matrix, np.float32) @ vectors.reshape(3, -1)
    return flat.reshape(vectors.shape)


def _constant(vector: np.ndarray) -> np.ndarray:
    return vector.astype(np.float32).reshape(3, 1, 1, 1)


def index_map(displacement: sitk.Image, moving: sitk.Image) -> np.ndarray:
    """Express a displacement (mm, LPS, on the fixed grid) as a map from fixed to moving index.

    Returns float32 ``(3, z, y, x)`` of the fixed grid: ``A_m^-1 (A_f i + o_f + u(i) - o_m)``.
    """
    fixed_matrix, fixed_origin = index_to_physical(displacement)
    moving_matrix, moving_origin = index_to_physical(moving)
    inverse = np.linalg.inv(moving_matrix)
    # All constant parts are combined in float64 first: origins of 100 mm cost no float32 digits.
    mapped = _apply(inverse, _vectors(displacement))
    mapped += _apply(inverse @ fixed_matrix, index_grid(displacement))
    mapped += _constant(inverse @ (fixed_origin - moving_origin))
    return mapped


def displacement_from_index_map(
    mapping: np.ndarray, fixed: sitk.Image, moving: sitk.Image
) -> sitk.Image:
    """Inverse of `index_map`: a displacement in mm (LPS) on the fixed grid."""
    fixed_matrix, fixed_origin = index_to_physical(fixed)
    moving_matrix, moving_origin = index_to_physical(moving)
    index = index_grid(fixed)
    # u = A_m (map(i) - i) + (A_m - A_f) i + o_m - o_f keeps small displacements accurate.
    vectors = _apply(moving_matrix, mapping.astype(np.float32) - index)
    vectors += _apply(moving_matrix - fixed_matrix, index)
    vectors += _constant(moving_origin - fixed_origin)
    return vector_image(vectors, fixed)


def displacement_from_stripped(
    stripped: sitk.Image, fixed: sitk.Image, moving: sitk.Image
) -> sitk.Image:
    """Carry a displacement in voxels, found between stripped images, back to physical space."""
    mapping = index_map(stripped, strip_header(moving))
    return displacement_from_index_map(mapping, fixed, moving)


def displacement_from_affine(
    matrix: np.ndarray, translation: np.ndarray, fixed: sitk.Image
) -> sitk.Image:
    """Displacement ``u(x) = M x + t - x`` on the fixed grid, all in mm and LPS."""
    fixed_matrix, fixed_origin = index_to_physical(fixed)
    shear = np.asarray(matrix, dtype=np.float64) - np.eye(3)
    vectors = _apply(shear @ fixed_matrix, index_grid(fixed))
    return vector_image(vectors + _constant(shear @ fixed_origin + translation), fixed)


def displacement_after_affine(
    displacement: sitk.Image, matrix: np.ndarray, translation: np.ndarray
) -> sitk.Image:
    """Compose v, from the fixed image to the affinely warped moving image, with that affine map.

    All in mm and LPS: the warped image is read at ``x + v(x)``, and it was warped by ``M x + t``.
    Returns u with ``x + u(x) = M (x + v(x)) + t``.
    """
    affine = displacement_from_affine(matrix, translation, displacement)
    return vector_image(_apply(matrix, _vectors(displacement)) + _vectors(affine), affine)


def warp_affinely(
    moving: sitk.Image, matrix: np.ndarray, translation: np.ndarray, fixed: sitk.Image
) -> sitk.Image:
    """Pull an image through an affine map, mm and LPS, onto the fixed grid; outside is 0."""
    transform = sitk.AffineTransform(np.ravel(matrix).tolist(), np.asarray(translation).tolist())
    return sitk.Resample(moving, fixed, transform, sitk.sitkLinear, 0.0)


def affine_error(matrix: np.ndarray, translation: np.ndarray, displacement: sitk.Image) -> float:
    """Return how far, in mm, ``x + u(x)`` is from ``M x + t`` at the corners of a grid, at most."""
    (a, origin), ends = index_to_physical(displacement), corners(displacement.GetSize()).T
    points = ends @ a.T + origin
    vectors = np.array([displacement[end] for end in ends.tolist()])
    return float(np.abs(points @ np.transpose(matrix) + translation - points - vectors).max())


def affine_to_stripped(
    matrix: np.ndarray, translation: np.ndarray, fixed: sitk.Image, moving: sitk.Image
) -> tuple[np.ndarray, np.ndarray]:
    """Turn an affine map between images, mm and LPS, into that between their stripped copies."""
    (a_fixed, o_fixed), (a_moving, o_moving) = map(index_to_physical, (fixed, moving))
    offset = matrix @ o_fixed + translation - o_moving
    return np.linalg.solve(a_moving, matrix @ a_fixed), np.linalg.solve(a_moving, offset)


def affine_from_stripped(
    matrix: np.ndarray, translation: np.ndarray, fixed: sitk.Image, moving: sitk.Image
) -> tuple[np.ndarray, np.ndarray]:
    """Turn an affine map between stripped copies into that between the images, mm and LPS."""
    (a_fixed, o_fixed), (a_moving, o_moving) = map(index_to_physical, (fixed, moving))
    found = a_moving @ matrix @ np.linalg.inv(a_fixed)
    return found, a_moving @ translation + o_moving - found @ o_fixed


def affine_ras_from_lps(matrix: np.ndarray, translation: np.ndarray) -> np.ndarray:
    """Turn ``M (3, 3)`` and ``t (3,)`` between LPS points into a 4x4 affine between RAS points."""
    result = np.eye(4)
    result[:3] = LPS_FROM_RAS @ np.column_stack([matrix @ LPS_FROM_RAS, translation])
    return result


def affine_lps_from_ras(matrix_ras: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Turn a 4x4 affine between RAS points into ``M (3, 3)`` and ``t (3,)`` between LPS points."""
    flipped = LPS_FROM_RAS @ matrix_ras[:3]
    return flipped[:, :3] @ LPS_FROM_RAS, flipped[:, 3]


def vectors_lps_from_ras(vectors: np.ndarray) -> np.ndarray:
    """Turn RAS vectors ``(3, z, y, x)`` into LPS vectors (its own inverse)."""
    return vectors * _constant(LPS_FROM_RAS.diagonal())
