"""Frames and the conversions between them; every change of axis, unit or direction is here.

Frames
------
index
    Continuous voxel index (i, j, k) of a grid, ITK order: x fastest.
physical
    Millimetres, LPS (ITK): ``x = origin + A @ index`` with ``A = direction @ diag(spacing)``.
RAS
    Millimetres as NIfTI and NiftyReg see them: ``x_ras = diag(-1, -1, 1) @ x_lps``.

Arrays follow NumPy's order of SimpleITK, ``(z, y, x)``; the components of vectors are always
``(x, y, z)``. All maps are pull-back maps: they take points of the fixed grid to the moving one.
"""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk

from avsm.grid import index_to_physical
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
    nx, ny, nz = grid.GetSize()
    z, y, x = np.meshgrid(*(np.arange(n, dtype=np.float32) for n in (nz, ny, nx)), indexing="ij")
    return np.stack([x, y, z])


def _apply(matrix: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Multiply every vector of ``(3, …)`` by ``matrix (3, 3)``, in float32."""
    flat = matrix.astype(np.float32) @ vectors.reshape(3, -1)
    return flat.reshape(vectors.shape)


def index_map(displacement: sitk.Image, moving: sitk.Image) -> np.ndarray:
    """Express a displacement field as a map from fixed index to moving index.

    Parameters
    ----------
    displacement : vector image on the fixed grid, mm, LPS: ``x_moving = x_fixed + u(x_fixed)``.
    moving : any image on the moving grid.

    Returns
    -------
    float32 ``(3, z, y, x)`` of the fixed grid: ``A_m^-1 (A_f i + o_f + u(i) - o_m)``.
    """
    fixed_matrix, fixed_origin = index_to_physical(displacement)
    moving_matrix, moving_origin = index_to_physical(moving)
    inverse = np.linalg.inv(moving_matrix)
    # All constant parts are combined in float64 first: origins of 100 mm cost no float32 digits.
    linear, offset = inverse @ fixed_matrix, inverse @ (fixed_origin - moving_origin)
    vectors = np.moveaxis(sitk.GetArrayViewFromImage(displacement), -1, 0)
    mapped = _apply(inverse, np.ascontiguousarray(vectors, dtype=np.float32))
    mapped += _apply(linear, index_grid(displacement))
    mapped += offset.astype(np.float32).reshape(3, 1, 1, 1)
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
    vectors += (moving_origin - fixed_origin).astype(np.float32).reshape(3, 1, 1, 1)
    return vector_image(vectors, fixed)


def vector_image(vectors: np.ndarray, grid: sitk.Image) -> sitk.Image:
    """Turn ``(3, z, y, x)`` into a float32 vector image with the geometry of `grid`."""
    array = np.ascontiguousarray(np.moveaxis(vectors, 0, -1), dtype=np.float32)
    image = sitk.GetImageFromArray(array, isVector=True)
    image.CopyInformation(grid)
    return image


def displacement_from_stripped(
    stripped: sitk.Image, fixed: sitk.Image, moving: sitk.Image
) -> sitk.Image:
    """Carry a displacement found between header-stripped images back to physical space.

    Parameters
    ----------
    stripped : displacement in voxels on the stripped fixed grid (see `strip_header`).
    fixed, moving : the images with their true headers.
    """
    mapping = index_map(stripped, strip_header(moving))
    return displacement_from_index_map(mapping, fixed, moving)


def displacement_from_affine(
    matrix: np.ndarray, translation: np.ndarray, fixed: sitk.Image
) -> sitk.Image:
    """Displacement ``u(x) = M x + t - x`` on the fixed grid, all in mm and LPS."""
    fixed_matrix, fixed_origin = index_to_physical(fixed)
    shear = np.asarray(matrix, dtype=np.float64) - np.eye(3)
    vectors = _apply(shear @ fixed_matrix, index_grid(fixed))
    vectors += (shear @ fixed_origin + translation).astype(np.float32).reshape(3, 1, 1, 1)
    return vector_image(vectors, fixed)


def displacement_after_affine(
    displacement: sitk.Image, matrix: np.ndarray, translation: np.ndarray
) -> sitk.Image:
    """Compose a displacement between the fixed image and the affinely warped moving image with it.

    Parameters
    ----------
    displacement : v on the fixed grid, mm, LPS: the warped image is read at ``x + v(x)``.
    matrix, translation : of the affine map by which it was warped, ``M x + t``, mm, LPS.

    Returns
    -------
    u with ``x + u(x) = M (x + v(x)) + t``.
    """
    vectors = np.moveaxis(sitk.GetArrayViewFromImage(displacement), -1, 0)
    moved = _apply(np.asarray(matrix), np.ascontiguousarray(vectors, dtype=np.float32))
    affine = displacement_from_affine(matrix, translation, displacement)
    return vector_image(moved + np.moveaxis(sitk.GetArrayViewFromImage(affine), -1, 0), affine)


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
    flip, result = LPS_FROM_RAS, np.eye(4)
    result[:3, :3], result[:3, 3] = flip @ matrix @ flip, flip @ translation
    return result


def affine_lps_from_ras(matrix_ras: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Turn a 4x4 affine between RAS points into ``M (3, 3)`` and ``t (3,)`` between LPS points."""
    flip = LPS_FROM_RAS
    return flip @ matrix_ras[:3, :3] @ flip, flip @ matrix_ras[:3, 3]


def vectors_lps_from_ras(vectors: np.ndarray) -> np.ndarray:
    """Turn RAS vectors ``(3, z, y, x)`` into LPS vectors (its own inverse)."""
    return vectors * np.diag(LPS_FROM_RAS).astype(vectors.dtype).reshape(3, 1, 1, 1)


def warp(image: sitk.Image, displacement: sitk.Image, nearest: bool = False) -> sitk.Image:
    """Pull `image` through a displacement onto the fixed grid; outside the image is 0."""
    # The transform takes the field's memory over, so it is given a copy.
    field = sitk.Cast(displacement, sitk.sitkVectorFloat64)
    transform = sitk.DisplacementFieldTransform(field)
    interpolator = sitk.sitkNearestNeighbor if nearest else sitk.sitkLinear
    grid = sitk.Image(displacement.GetSize(), image.GetPixelID())
    grid.CopyInformation(displacement)
    return sitk.Resample(image, grid, transform, interpolator, 0.0)
