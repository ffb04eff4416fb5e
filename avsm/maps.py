"""Maps and images on grids: warping, composition, change of resolution, Jacobians; shape checks.

A map is a tensor ``(B, 3, D, H, W)`` in the frame of the package: channel c is the coordinate along
array axis c, in [-1, 1] and corner aligned. ``phi(x)`` is where in the moving image to read for the
voxel x of the fixed image.
"""

import functools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from avsm.errors import choose

# Of a pyramid's Gaussian, in coarse voxels: it damps the coarse grid's highest frequency to .29.
PYRAMID_SD = 0.5
INTERPOLATIONS = {"linear": "bilinear", "nearest": "nearest"}


def check_volume(name: str, tensor: Tensor, channels: int | None = None) -> None:
    """Raise ValueError unless ``tensor`` is ``(B, C, D, H, W)`` with at least two voxels a side.

    ``name`` is the argument's, for the message; ``channels`` the number it must have, None any.
    """
    wanted = f"(B, {'C' if channels is None else channels}, D, H, W) with D, H, W of at least 2"
    wrong = tensor.ndim != 5 or min(tensor.shape[2:]) < 2
    if wrong or (channels is not None and tensor.shape[1] != channels):
        raise ValueError(f"{name}: expected shape {wanted}, found {tuple(tensor.shape)}")


def check_same_shape(name: str, tensor: Tensor, other: str, reference: Tensor) -> None:
    """Raise ValueError unless both tensors have the same shape."""
    found, expected = tuple(tensor.shape), tuple(reference.shape)
    if found != expected:
        raise ValueError(f"{name}: expected the shape of {other}, {expected}, found {found}")


def check_pair(fixed: Tensor, other: Tensor, name: str = "moving") -> None:
    """Raise ValueError unless two images have one shape, ``(B, 1, D, H, W)``."""
    check_volume("fixed", fixed, channels=1)
    check_same_shape(name, other, "fixed", fixed)


def check_same_batch(name: str, tensor: Tensor, other: str, reference: Tensor) -> None:
    """Raise ValueError unless both tensors have the same batch size."""
    found, expected = tensor.shape[0], reference.shape[0]
    if found != expected:
        raise ValueError(f"{name}: expected the batch size of {other}, {expected}, found {found}")


@functools.lru_cache(maxsize=32)
def _axes(shape: tuple[int, int, int], dtype: torch.dtype, device: torch.device) -> tuple:
    """Give the coordinates along each axis, shaped to broadcast against (D, H, W)."""
    with torch.inference_mode(False):  # a cached tensor must stay usable in training
        z, y, x = (torch.linspace(-1, 1, n, dtype=dtype, device=device) for n in shape)
        return z[:, None, None], y[:, None], x


def identity_map(shape: Sequence[int], like: Tensor) -> Tensor:
    """Give the identity ``(1, 3, D, H, W)`` of a grid (D, H, W), of ``like``'s dtype and device."""
    size = tuple(int(n) for n in shape)
    axes = _axes(size, like.dtype, like.device)
    return torch.stack([axis.expand(size) for axis in axes])[None]


def affine_map(matrix: Tensor, offset: Tensor, shape: Sequence[int]) -> Tensor:
    """Sample phi(x) = A x + b on a grid (D, H, W): ``(B, 3, D, H, W)``, differentiable in both.

    The matrix A ``(B, 3, 3)`` and the offset b ``(B, 3)`` act on normalised (z, y, x).
    """
    if matrix.shape[1:] != (3, 3) or offset.shape != matrix.shape[:2]:
        raise ValueError(
            "matrix, offset: expected shapes (B, 3, 3) and (B, 3), "
            f"found {tuple(matrix.shape)} and {tuple(offset.shape)}"
        )
    z, y, x = _axes(tuple(int(n) for n in shape), matrix.dtype, matrix.device)
    columns = matrix[..., None, None, None]  # (B, 3, 3, 1, 1, 1)
    plane = columns[:, :, 1] * y + columns[:, :, 2] * x  # (B, 3, 1, H, W)
    return columns[:, :, 0] * z + (plane + offset[..., None, None, None])


def _reverse(phi: Tensor) -> Tensor:
    """Reverse the order of the channels, z, y, x to grid_sample's x, y, z or back."""
    return phi.flip(1)


def _sample(volume: Tensor, points: Tensor, padding: str, mode: str) -> Tensor:
    """Read ``volume`` at points ``(B, 3, D, H, W)`` whose channels are in the order x, y, z."""
    grid = points.movedim(1, -1)
    return F.grid_sample(volume, grid, mode=mode, padding_mode=padding, align_corners=True)


def warp(image: Tensor, phi: Tensor, interpolation: str = "linear") -> Tensor:
    """Warp an image by a pull-back map: ``warped(x) = image(phi(x))``, ``(B, C, D, H, W)``.

    The image ``(B, C, D', H', W')`` may lie on another grid than the map ``(B, 3, D, H, W)``. It is
    read by ``linear`` (trilinear) or ``nearest`` interpolation; outside of it is 0, the black of an
    image in [0, 1].
    """
    check_volume("image", image)
    check_volume("phi", phi, channels=3)
    check_same_batch("image", image, "phi", phi)
    choose("interpolation", interpolation, INTERPOLATIONS)
    return _sample(image, _reverse(phi), "zeros", INTERPOLATIONS[interpolation])


def warp_displacement(displacement: Tensor, phi: Tensor) -> Tensor:
    """Read a displacement ``(B, 3, D', H', W')`` at ``phi``; it is constant beyond its border."""
    return _sample(displacement, _reverse(phi), "border", "bilinear")


def self_compose(displacement: Tensor, times: int) -> Tensor:
    """Square a map id + u so many times, u <- u + u(id + u): 2^times applications of it.

    The displacement u is ``(B, 3, D, H, W)`` in normalised coordinates, as is the result; beyond
    its border it is constant.
    """
    identity = _reverse(identity_map(displacement.shape[2:], displacement))
    u = _reverse(displacement)  # reversed once rather than in every squaring
    for _ in range(times):
        u = u + _sample(u, identity + u, "border", "bilinear")
    return _reverse(u)


def affine_part(phi: Tensor) -> tuple[Tensor, Tensor]:
    """Fit A ``(B, 3, 3)`` and b ``(B, 3)`` of an affine map to a map, by least squares."""
    check_volume("phi", phi, channels=3)
    columns = []
    # Coordinates are centred, so that the axes are orthogonal and each column stands alone.
    for axis, x in zip((2, 3, 4), _axes(tuple(phi.shape[2:]), phi.dtype, phi.device), strict=True):
        profile = phi.mean(dim=[other for other in (2, 3, 4) if other != axis])  # (B, 3, n)
        columns.append((profile * x.flatten()).mean(dim=2) / x.square().mean())
    return torch.stack(columns, dim=2), phi.mean(dim=(2, 3, 4))


def compose(outer: Tensor, inner: Tensor) -> Tensor:
    """Compose two maps, on any grids: ``composed(x) = outer(inner(x))``, on the inner one's grid.

    The affine part of ``outer`` is applied to the points of ``inner`` and only the rest is
    interpolated (constant beyond the border), so that affine maps compose without error even where
    ``inner`` leaves the volume.
    """
    check_volume("outer", outer, channels=3)
    check_volume("inner", inner, channels=3)
    check_same_batch("outer", outer, "inner", inner)
    matrix, offset = affine_part(outer)
    rest = outer - affine_map(matrix, offset, outer.shape[2:])
    moved = (matrix @ inner.flatten(2) + offset[..., None]).unflatten(2, inner.shape[2:])
    return moved + warp_displacement(rest, inner)


def resize(field: Tensor, shape: Sequence[int]) -> Tensor:
    """Resample a map, velocity or momentum ``(B, C, D, H, W)`` to another grid of the same volume.

    Trilinear between aligned corners: affine maps are reproduced exactly, values keep their units.
    """
    check_volume("field", field)
    size = tuple(int(n) for n in shape)
    if tuple(field.shape[2:]) == size:
        return field
    return F.interpolate(field, size=size, mode="trilinear", align_corners=True)


def half_shape(shape: Sequence[int]) -> tuple[int, int, int]:
    """Give the grid of half the resolution, odd sizes rounded up: that of maps and momenta."""
    depth, height, width = ((int(n) + 1) // 2 for n in shape)
    return depth, height, width


def spacing(shape: Sequence[int]) -> tuple[float, float, float]:
    """Give the distance of neighbouring voxels along each axis, in normalised coordinates."""
    depth, height, width = (2 / (int(n) - 1) for n in shape)
    return depth, height, width


def scaled_shape(shape: Sequence[int], scale: float) -> tuple[int, int, int]:
    """Give the grid (D', H', W') of a pyramid level of a grid (D, H, W).

    A scale of .25 leaves a quarter of the voxels along each axis, rounded, at least 2.
    """
    if not 0 < scale <= 1:
        raise ValueError(f"scale: expected a value above 0 and at most 1, found {scale}")
    depth, height, width = (max(2, round(int(n) * scale)) for n in shape)
    return depth, height, width


@functools.lru_cache(maxsize=32)
def _gaussian_weights(size: int, small: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Give the weights (small, size) of the fine voxels in each coarse one along an axis."""
    with torch.inference_mode(False):  # a cached tensor must stay usable in training
        step = (size - 1) / (small - 1)  # fine voxels from coarse voxel to coarse voxel
        places = step * torch.arange(small, dtype=torch.float64)
        distance = torch.arange(size, dtype=torch.float64) - places[:, None]
        weights = torch.exp(-0.5 * (distance / (PYRAMID_SD * step)) ** 2)
        return (weights / weights.sum(dim=1, keepdim=True)).to(dtype).to(device)


def downsample(image: Tensor, scale: float) -> Tensor:
    """Reduce ``(B, C, D, H, W)`` to a pyramid level: a Gaussian read at the coarse voxels' places.

    The field of view between the outermost voxel centres stays, see ``scaled_shape``. Deviation:
    the authors' code interpolates linearly without smoothing, which aliases. At the border the
    Gaussian is cut and re-normalised.
    """
    check_volume("image", image)
    shape = scaled_shape(image.shape[2:], scale)
    for axis, small in zip((2, 3, 4), shape, strict=True):
        size = image.shape[axis]
        if small < size:
            weights = _gaussian_weights(size, small, image.dtype, image.device)
            image = torch.tensordot(image, weights, dims=([axis], [1])).movedim(-1, axis)
    return image.contiguous()


def jacobian_determinant(phi: Tensor) -> Tensor:
    """Give a map's Jacobian determinant, ``(B, D, H, W)``: 1 for the identity, below 0 in folds.

    Central differences inside, one-sided at the border, all nine partial derivatives.
    """
    check_volume("phi", phi, channels=3)
    gradients = torch.gradient(phi, spacing=spacing(phi.shape[2:]), dim=(2, 3, 4))
    normal = torch.linalg.cross(gradients[1], gradients[2], dim=1)
    return (gradients[0] * normal).sum(dim=1)
