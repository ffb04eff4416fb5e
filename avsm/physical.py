"""To the networks' grids, and from them to physical space: affine parameters and displacements.

The networks see both images on grids of one size, axes RAS+, each over its own field of view, in
normalised coordinates t (z, y, x), corner aligned. For an image of N voxels on a grid of n along an
axis, t lies at the image's index t (n - 1) N / (2 n) + (N - 1) / 2. Physical points are in mm, LPS.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor

from avsm.grid import index_to_physical, like, to_grid
from avsm.images import canonical
from avsm.maps import Affine, affine_map, compose

SLAB_VOXELS = 1 << 22  # of the fixed image, worked on at a time
X_AXIS = 2  # channel, and axis of (D, H, W), that runs left to right


class Frame(NamedTuple):
    """Physical points of normalised coordinates t (z, y, x): ``matrix @ t + centre``, in mm."""

    matrix: np.ndarray
    centre: np.ndarray


def grid_frame(image: sitk.Image, shape: Sequence[int] | None = None) -> Frame:
    """Give the frame of a grid (D, H, W) over an image's field of view; None: its own voxels."""
    voxels = np.asarray(image.GetSize(), float)
    grid = voxels if shape is None else np.asarray(shape[::-1], float)
    to_physical, origin = index_to_physical(image)
    matrix = to_physical * ((grid - 1) * voxels / (2 * grid))
    centre = origin + to_physical @ ((voxels - 1) / 2)
    return Frame(matrix[:, ::-1].copy(), centre)


def pair_on_grid(
    fixed: sitk.Image,
    moving: sitk.Image,
    shape: Sequence[int],
    device: torch.device,
    normalised: bool = False,
) -> list[Tensor]:
    """Bring both images to the networks' grid (D, H, W): ``(1, 1, D, H, W)``, see ``to_grid``."""
    pair = {"fixed image": fixed, "moving image": moving}
    arrays = (to_grid(image, shape, name, normalised) for name, image in pair.items())
    return [torch.from_numpy(array)[None, None].to(device) for array in arrays]


def mirror_map(phi: Tensor) -> Tensor:
    """Express a map ``(B, 3, D, H, W)`` between mirrored images for the images themselves."""
    sign = torch.ones(3, device=phi.device, dtype=phi.dtype)
    sign[X_AXIS] = -1
    return phi.flip(X_AXIS - 3) * sign[:, None, None, None]


def physical_affine(
    affine: Affine, fixed: sitk.Image, moving: sitk.Image, shape: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Carry affine parameters ``(1, 3, 3)``, ``(1, 3)`` on grids (D, H, W) to physical space.

    Gives M (3, 3) and t (3,) of ``x_moving = M x_fixed + t``, float64; images have any orientation.
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


def physical_displacement(phi: Tensor, fixed: sitk.Image, moving: sitk.Image) -> sitk.Image:
    """Carry a map ``(1, 3, D, H, W)`` on the model's grids to physical space, any orientation.

    Gives the displacement on the fixed image's own grid, float32. Beyond the outermost voxels of
    the map its affine part goes on and the rest stays constant.
    """
    shape = phi.shape[2:]
    own = grid_frame(fixed)
    target, source = (grid_frame(canonical(image), shape) for image in (fixed, moving))
    inverse = np.linalg.inv(target.matrix)
    width, height, depth = fixed.GetSize()
    field = np.empty((depth, height, width, 3), np.float32)
    # Slabs of two planes or more.
    slabs = max(1, min(depth // 2, -(-depth * height * width // SLAB_VOXELS)))
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
    return like(field, fixed)


def _tensor(values: np.ndarray) -> Tensor:
    return torch.from_numpy(np.asarray(values, np.float32))


def _sample(matrix: np.ndarray, offset: np.ndarray, shape: Sequence[int]) -> Tensor:
    return affine_map(_tensor(matrix)[None], _tensor(offset)[None], shape)
