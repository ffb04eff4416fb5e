"""Registration of two images in physical space with a trained model.

Frames: the networks see both images on grids of the model's size, axes RAS+, each over its own
field of view, in normalised coordinates t (z, y, x), corner aligned: -1 and 1 are the centres of
the grid's outermost voxels. For an image of N voxels on a grid of n along an axis, t lies at the
image's index t (n - 1) N / (2 n) + (N - 1) / 2: both grids have the same centre and the same edges.
Physical points are in mm, LPS, as in ITK.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import SimpleITK as sitk
import torch

from avsm.checkpoint import TrainedModel
from avsm.device import find_device
from avsm.errors import UserError
from avsm.images import canonical, check_image, to_grid
from avsm.maps import affine_map, compose

SLAB_VOXELS = 1 << 22  # of the fixed image, worked on at a time
X_AXIS = 2  # channel, and axis of (D, H, W), that runs left to right


class Result(NamedTuple):
    """A registration in physical space.

    Attributes
    ----------
    displacement
        Vector image on the fixed image's grid, float32, mm, LPS: x_moving = x_fixed + u(x_fixed).
        ``sitk.DisplacementFieldTransform``, ANTs and Slicer apply it as is.
    warped
        The moving image on the fixed image's grid, by linear interpolation, float32. Outside of
        the moving image it has that image's lowest intensity.
    """

    displacement: sitk.Image
    warped: sitk.Image


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


def register(
    fixed: sitk.Image,
    moving: sitk.Image,
    model: TrainedModel,
    affine_steps: int | None = None,
    steps: int | None = None,
    refine: int = 0,
    refine_affine: bool = False,
    normalised: bool = False,
    mirror: bool = False,
    device: str = "auto",
) -> Result:
    """Register two 3D images of one anatomy.

    Parameters
    ----------
    fixed, moving
        Scalar images, any grids and headers.
    model
        The model, see ``checkpoint.load_model``.
    affine_steps
        Affine steps, at least 1; None takes the model's.
    steps
        vSVF steps; 0 for the affine map alone, None takes the model's.
    refine
        Iterations of instance optimisation on this pair, from one vSVF step; ``steps`` is not used.
    refine_affine
        Whether the affine parameters are optimised before, not only the momentum.
    normalised
        Whether intensities are in [0, 1] already; otherwise each image's .1 and 99.9 percentiles
        become 0 and 1.
    mirror
        Show both images to the networks with left and right swapped: for the other side of the
        body than the model was trained on.
    device
        See ``device.find_device``.

    Returns
    -------
    Result
        Displacement and warped image, on the fixed image's grid.

    Raises
    ------
    UserError
        If an image or the number of steps does not fit.
    """
    for name, image in (("fixed image", fixed), ("moving image", moving)):
        check_image(image, name)
    place = find_device(device)
    arrays = [
        to_grid(image, model.shape, name, normalised)
        for name, image in (("fixed image", fixed), ("moving image", moving))
    ]
    if mirror:
        arrays = [np.ascontiguousarray(np.flip(array, X_AXIS)) for array in arrays]
    tensors = [torch.from_numpy(array)[None, None].to(place) for array in arrays]
    phi = find_map(model, *tensors, affine_steps, steps, refine, refine_affine)
    if mirror:
        phi = mirror_map(phi)
    displacement = physical_displacement(phi.cpu(), fixed, moving)
    return Result(displacement, warp_image(moving, displacement))


def find_map(
    model: TrainedModel,
    fixed: torch.Tensor,
    moving: torch.Tensor,
    affine_steps: int | None = None,
    steps: int | None = None,
    refine: int = 0,
    refine_affine: bool = False,
) -> torch.Tensor:
    """Register images ``(B, 1, D, H, W)`` on the model's grid: the map ``(B, 3, D, H, W)``."""
    for name, value, least in (
        ("affine steps", affine_steps, 1),
        ("steps", steps, 0),
        ("refine", refine, 0),
    ):
        if value is not None and value < least:
            raise UserError(f"{name}: expected at least {least}, found {value}")
    if refine and steps is not None:
        raise UserError("steps: refine starts from one vSVF step; give one of the two")
    if refine_affine and not refine:
        raise UserError("refine_affine: expected iterations of refine, found 0")
    if steps is None and "momentum" not in model.trained:
        steps = 0  # an untrained momentum network leaves the affine map as it is
    networks = model.model.to(fixed.device, memory_format=torch.channels_last_3d)
    if refine:
        from avsm.refine import refine as refine_pair

        return refine_pair(networks, fixed, moving, refine, affine_steps, refine_affine).map
    with torch.inference_mode():
        return networks(fixed, moving, affine_steps, steps).map


def mirror_map(phi: torch.Tensor) -> torch.Tensor:
    """Express a map ``(B, 3, D, H, W)`` between mirrored images for the images themselves."""
    sign = torch.ones(3, device=phi.device, dtype=phi.dtype)
    sign[X_AXIS] = -1
    return phi.flip(X_AXIS - 3) * sign[:, None, None, None]


def physical_displacement(phi: torch.Tensor, fixed: sitk.Image, moving: sitk.Image) -> sitk.Image:
    """Carry a map on the model's grids to physical space.

    Between the grid's voxels the map is interpolated; beyond the outermost centres its affine part
    goes on and the rest stays constant.

    Parameters
    ----------
    phi
        ``(1, 3, D, H, W)`` in normalised coordinates.
    fixed, moving
        The images, with any orientation.

    Returns
    -------
    sitk.Image
        Displacement in mm (LPS) on the fixed image's own grid, float32.
    """
    shape = phi.shape[2:]
    own = grid_frame(fixed)
    target, source = (grid_frame(canonical(image), shape) for image in (fixed, moving))
    inverse = np.linalg.inv(target.matrix)
    width, height, depth = fixed.GetSize()
    field = np.empty((depth, height, width, 3), np.float32)
    for first, last in _slabs(depth, height * width):
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


def _slabs(depth: int, plane: int) -> Iterator[tuple[int, int]]:
    """Cut planes into slabs of at least two."""
    count = max(1, min(depth // 2, -(-depth * plane // SLAB_VOXELS)))
    edges = np.linspace(0, depth, count + 1).round().astype(int)
    yield from zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)


def _tensor(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.asarray(values, np.float32))


def _sample(matrix: np.ndarray, offset: np.ndarray, shape: Sequence[int]) -> torch.Tensor:
    return affine_map(_tensor(matrix)[None], _tensor(offset)[None], shape)


def warp_image(moving: sitk.Image, displacement: sitk.Image, label: bool = False) -> sitk.Image:
    """Resample an image through a displacement field with SimpleITK.

    Parameters
    ----------
    moving
        The image, any grid.
    displacement
        See ``Result``; the result has its grid.
    label
        Interpolate by nearest neighbour and keep the pixel type; outside is 0.
    """
    # The transform takes the image that it is given for itself: it gets a copy.
    transform = sitk.DisplacementFieldTransform(sitk.Cast(displacement, sitk.sitkVectorFloat64))
    if label:
        return sitk.Resample(
            moving, displacement, transform, sitk.sitkNearestNeighbor, 0.0, moving.GetPixelID()
        )
    lowest = float(sitk.GetArrayViewFromImage(moving).min())
    return sitk.Resample(moving, displacement, transform, sitk.sitkLinear, lowest, sitk.sitkFloat32)
