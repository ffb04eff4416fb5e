"""From maps on the networks' grids to physical space: displacement fields, images, landmarks.

Frames: the networks see both images on grids of one size, axes RAS+, each over its own field of
view, in normalised coordinates t (z, y, x), corner aligned: -1 and 1 are the centres of the grid's
outermost voxels. For an image of N voxels on a grid of n along an axis, t lies at the image's index
t (n - 1) N / (2 n) + (N - 1) / 2: both grids have the same centre and the same edges. Physical
points are in mm, LPS, as in ITK.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import SimpleITK as sitk
import torch

from avsm.affine import Affine
from avsm.errors import UserError, raise_all
from avsm.images import canonical
from avsm.maps import affine_map, compose

SLAB_VOXELS = 1 << 22  # of the fixed image, worked on at a time
WITHIN_MM = 1e-3  # of a point's inverse
MOST_ITERATIONS = 200
FAR = 16  # times its range an image may be from zero before float32 loses digits of it
X_AXIS = 2  # channel, and axis of (D, H, W), that runs left to right


class Frame(NamedTuple):
    """Physical points of normalised coordinates t (z, y, x): ``matrix @ t + centre``, in mm."""

    matrix: np.ndarray
    centre: np.ndarray


def grid_frame(image: sitk.Image, shape: Sequence[int] | None = None) -> Frame:
    """Give the frame of a grid (D, H, W) over an image's field of view; None: its own voxels."""
    voxels = np.asarray(image.GetSize(), float)
    grid = voxels if shape is None else np.asarray(shape[::-1], float)
    direction = np.asarray(image.GetDirection()).reshape(3, 3)
    to_physical = direction * np.asarray(image.GetSpacing())
    matrix = to_physical * ((grid - 1) * voxels / (2 * grid))
    centre = np.asarray(image.GetOrigin()) + to_physical @ ((voxels - 1) / 2)
    return Frame(matrix[:, ::-1].copy(), centre)


def mirror_map(phi: torch.Tensor) -> torch.Tensor:
    """Express a map ``(B, 3, D, H, W)`` between mirrored images for the images themselves."""
    sign = torch.ones(3, device=phi.device, dtype=phi.dtype)
    sign[X_AXIS] = -1
    return phi.flip(X_AXIS - 3) * sign[:, None, None, None]


def physical_affine(
    affine: Affine, fixed: sitk.Image, moving: sitk.Image, shape: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Carry affine parameters ``(1, 3, 3)``, ``(1, 3)`` on grids (D, H, W) to physical space.

    The images have any orientation. Gives M (3, 3) and t (3,) of ``x_moving = M x_fixed + t``, mm,
    LPS, float64.
    """
    target, source = (grid_frame(canonical(image), shape) for image in (fixed, moving))
    matrix, offset = (part[0].detach().cpu().double().numpy() for part in affine)
    physical = source.matrix @ matrix @ np.linalg.inv(target.matrix)
    return physical, source.matrix @ offset + source.centre - physical @ target.centre


def normalised_affine(
    matrix: np.ndarray,
    translation: np.ndarray,
    fixed: sitk.Image,
    moving: sitk.Image,
    shape: Sequence[int],
) -> Affine:
    """Inverse of ``physical_affine``: float32 parameters of one pair, on the processor."""
    target, source = (grid_frame(canonical(image), shape) for image in (fixed, moving))
    offset = matrix @ target.centre + translation - source.centre
    parts = (matrix @ target.matrix, offset)
    return Affine(*(_tensor(np.linalg.solve(source.matrix, part))[None] for part in parts))


def physical_displacement(phi: torch.Tensor, fixed: sitk.Image, moving: sitk.Image) -> sitk.Image:
    """Carry a map ``(1, 3, D, H, W)`` on the model's grids to physical space.

    The images have any orientation. Gives the displacement in mm (LPS) on the fixed image's own
    grid, float32. Between the grid's voxels the map is interpolated; beyond the outermost centres
    its affine part goes on and the rest stays constant.
    """
    shape = phi.shape[2:]
    own = grid_frame(fixed)
    target, source = (grid_frame(canonical(image), shape) for image in (fixed, moving))
    inverse = np.linalg.inv(target.matrix)
    width, height, depth = fixed.GetSize()
    field = np.empty((depth, height, width, 3), np.float32)
    slabs = max(1, min(depth // 2, -(-depth * height * width // SLAB_VOXELS)))  # of two planes
    edges = np.linspace(0, depth, slabs + 1).round().astype(int).tolist()
    for first, last in itertools.pairwise(edges):
        # The slab in its own normalised coordinates, which run from -1 to 1 over its planes.
        part = (last - first - 1) / (depth - 1)
        middle = (first + last - 1) / (depth - 1) - 1
        matrix = own.matrix * (part, 1, 1)
        centre = own.centre + own.matrix[:, 0] * middle
        to_grid_matrix, to_grid_offset = inverse @ matrix, inverse @ (centre - target.centre)
        size = (last - first, height, width)
        points = _sample(to_grid_matrix, to_grid_offset, size)
        moved = compose(phi, points) - points
        # u = M_m t_m + c_m - (M_f t_f + c_f) = M_m (t_m - t_f) + (M_m - M_f) t_f + c_m - c_f,
        # of which all but the first term is affine: no digits are lost to large origins.
        rest = source.matrix - target.matrix
        offset = rest @ to_grid_offset + source.centre - target.centre
        u = _sample(rest @ to_grid_matrix, offset, size)
        u += (_tensor(source.matrix) @ moved.flatten(2)).unflatten(2, size)
        field[first:last] = u[0].permute(1, 2, 3, 0).numpy()
    image = sitk.GetImageFromArray(field, isVector=True)
    image.CopyInformation(fixed)
    return image


def _tensor(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.asarray(values, np.float32))


def _sample(matrix: np.ndarray, offset: np.ndarray, shape: Sequence[int]) -> torch.Tensor:
    return affine_map(_tensor(matrix)[None], _tensor(offset)[None], shape)


def warp_image(
    moving: sitk.Image,
    displacement: sitk.Image,
    label: bool = False,
    reference: sitk.Image | None = None,
    outside: float | None = None,
) -> sitk.Image:
    """Resample an image through a displacement field (see ``registration.Result``), by SimpleITK.

    Interpolation is linear, in float32, or float64 where values so far from zero lose digits in
    float32; that of a ``label`` map is by nearest neighbour and keeps the pixel type.

    Parameters
    ----------
    reference
        An image whose grid the result has; None takes the field's. Beyond the field is outside.
    outside
        The value where nothing of the image is seen; None: its lowest, of a label map 0.

    Raises
    ------
    UserError
        If the reference lies outside of the field, or a label map cannot hold the value outside.
    """
    grid = displacement if reference is None else reference
    # The transform takes the image that it is given for itself: it gets a copy.
    transform = sitk.DisplacementFieldTransform(sitk.Cast(displacement, sitk.sitkVectorFloat64))
    values = sitk.GetArrayViewFromImage(moving)
    if label:
        outside, kind, interpolator = outside or 0.0, moving.GetPixelID(), sitk.sitkNearestNeighbor
        limits = np.iinfo(values.dtype) if values.dtype.kind in "iu" else None
        if limits and outside not in range(limits.min, limits.max + 1):
            raise UserError(f"outside: found {outside:g}, which is no {values.dtype.name}")
    else:
        low, high = float(values.min()), float(values.max())
        outside = low if outside is None else outside
        far = max(abs(low), abs(high)) > FAR * (high - low)
        kind, interpolator = sitk.sitkFloat64 if far else sitk.sitkFloat32, sitk.sitkLinear
    warped = sitk.Resample(moving, grid, transform, interpolator, outside, kind)
    if reference is None:
        return warped
    # Beyond the field the transform is the identity, which nothing says is right.
    covered = sitk.Image(displacement.GetSize(), sitk.sitkUInt8) + 1
    covered.CopyInformation(displacement)
    covered = sitk.Resample(covered, grid, sitk.Transform(), sitk.sitkNearestNeighbor, 0.0)
    if not sitk.GetArrayViewFromImage(covered).any():
        raise UserError("reference: lies outside of the displacement field; expected its place")
    return sitk.Mask(warped, covered, outside)


def move_points(points: np.ndarray, displacement: sitk.Image, inverse: bool = False) -> np.ndarray:
    """Carry landmarks ``(N, 3)``, mm, LPS, of the fixed image through a displacement field.

    With ``inverse`` they are the moving image's, and x_fixed of ``x_moving = x_fixed + u(x_fixed)``
    is found by iteration to within ``WITHIN_MM``. Gives their places in the other image. A
    UserError lists the points that lie, or end, outside of the field, or have no inverse.
    """
    transform = sitk.DisplacementFieldTransform(sitk.Cast(displacement, sitk.sitkVectorFloat64))
    result, faults = np.empty((len(points), 3)), []
    if inverse:
        back, offset = _inverse_affine(displacement)
    for number, point in enumerate(np.asarray(points, float)):
        at, moved = (back @ point + offset if inverse else point), None
        for _ in range(MOST_ITERATIONS if inverse else 1):
            inside = _clamped(displacement, at)
            if not inverse and np.abs(inside - at).max() > WITHIN_MM:
                break
            there = np.asarray(transform.TransformPoint(inside.tolist()))
            if not inverse or np.abs(there - point).max() < WITHIN_MM:
                moved = inside if inverse else there
                break
            at = inside - back @ (there - point)
        if moved is None:
            faults.append(f"point {number + 1} at {np.round(point, 2).tolist()} mm (LPS)")
        else:
            result[number] = moved
    where = "have no inverse inside of the field" if inverse else "lie outside of the field"
    raise_all(f"points that {where}, or are of another frame or image:", faults)
    return result


def _clamped(image: sitk.Image, point: np.ndarray) -> np.ndarray:
    """Give the point of an image's field of view that is nearest along its axes."""
    index = np.asarray(image.TransformPhysicalPointToContinuousIndex(point.tolist()))
    index = np.clip(index, -0.499, np.asarray(image.GetSize()) - 0.501)
    return np.asarray(image.TransformContinuousIndexToPhysicalPoint(index.tolist()))


def _inverse_affine(displacement: sitk.Image) -> tuple[np.ndarray, np.ndarray]:
    """Fit the affine map ``x_fixed = matrix @ x_moving + offset`` to a field, by least squares."""
    axes = [range(0, n, max(1, n // 10)) for n in displacement.GetSize()]
    indices = list(itertools.product(*axes))
    fixed = [displacement.TransformIndexToPhysicalPoint(index) for index in indices]
    u = [displacement.GetPixel(*index) for index in indices]
    moving = np.hstack([np.add(fixed, u), np.ones((len(u), 1))])
    solution, *_ = np.linalg.lstsq(moving, np.asarray(fixed), rcond=None)
    return solution[:3].T, solution[3]
