"""Maps and images on grids: affine maps, warping, composition, resolution, Jacobians; checks.

A map is a tensor ``(B, 3, D, H, W)``: ``phi(x)`` is where in the moving image to read for the voxel
x of the fixed image; channel c is the coordinate along array axis c, in [-1, 1], corner aligned.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from avsm.errors import choose

# Of a pyramid's Gaussian, in coarse voxels: it damps the coarse grid's highest frequency to .29.
PYRAMID_SD = 0.5
INTERPOLATIONS = {"linear": "bilinear", "nearest": "nearest"}


def check_volume(name: str, tensor: Tensor, channels: int | None = None) -> None:
    """Raise ValueError unless a tensor is ``(B, C, D, H, W)``, two voxels or more a side."""
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
    """Sample phi(x) = A x + b, normalised (z, y, x), on a grid (D, H, W): ``(B, 3, D, H, W)``."""
    if matrix.shape[1:] != (3, 3) or offset.shape != matrix.shape[:2]:
        raise ValueError(
            "matrix, offset: expected shapes (B, 3, 3) and (B, 3), "
            f"found {tuple(matrix.shape)} and {tuple(offset.shape)}"
        )
    z, y, x = _axes(tuple(int(n) for n in shape), matrix.dtype, matrix.device)
    columns = matrix[..., None, None, None]  # (B, 3, 3, 1, 1, 1)
    plane = columns[:, :, 1] * y + columns[:, :, 2] * x  # (B, 3, 1, H, W)
    return columns[:, :, 0] * z + (plane + offset[..., None, None, None])


class Affine(NamedTuple):
    """Affine parameters Gamma = (A, b) of a batch: ``(B, 3, 3)`` and, normalised, ``(B, 3)``."""

    matrix: Tensor
    offset: Tensor

    def map(self, shape: Sequence[int]) -> Tensor:
        """Sample the map on a grid (D, H, W): ``(B, 3, D, H, W)``."""
        return affine_map(self.matrix, self.offset, shape)

    def to(self, place: Tensor) -> Self:
        """Give the parameters with the dtype and device of a tensor."""
        return self._make(part.to(place) for part in self)


def identity_affine(batch: int, like: Tensor) -> Affine:
    """Give the identity, A = I and b = 0, with the dtype and device of ``like``."""
    matrix = torch.eye(3, dtype=like.dtype, device=like.device).expand(batch, 3, 3)
    return Affine(matrix, torch.zeros(batch, 3, dtype=like.dtype, device=like.device))


def affine_from_residual(residual: Tensor) -> Affine:
    """Read ``(B, 12)`` numbers as a deviation from the identity: A - I row by row, then b."""
    if residual.ndim != 2 or residual.shape[1] != 12:
        raise ValueError(f"residual: expected shape (B, 12), found {tuple(residual.shape)}")
    start = identity_affine(residual.shape[0], residual)
    return Affine(start.matrix + residual[:, :9].reshape(-1, 3, 3), residual[:, 9:])


def compose_affine(update: Affine, current: Affine) -> Affine:
    """Refine affine parameters by what a step predicts: the map x -> update(current(x))."""
    matrix = update.matrix @ current.matrix  # Eq. 1: A_t = A~_t A_(t-1)
    offset = (update.matrix @ current.offset[..., None])[..., 0]
    return Affine(matrix, offset + update.offset)  # Eq. 1: b_t = A~_t b_(t-1) + b~_t


def invert_affine(affine: Affine) -> Affine:
    """Give the inverse map: A^-1 and -A^-1 b."""
    inverse = torch.linalg.inv(affine.matrix)
    return Affine(inverse, -(inverse @ affine.offset[..., None])[..., 0])


def both_ways(forward: Affine) -> Affine:
    """Give the maps of a batch of both directions: forward ones, then their inverses."""
    parts = zip(forward, invert_affine(forward), strict=True)
    return Affine(*(torch.cat(part) for part in parts))


def _reverse(phi: Tensor) -> Tensor:
    """Reverse the order of the channels, z, y, x to grid_sample's x, y, z or back."""
    return phi.flip(1)


def _sample(volume: Tensor, points: Tensor, padding: str, mode: str) -> Tensor:
    """Read ``volume`` at points ``(B, 3, D, H, W)`` whose channels are in the order x, y, z."""
    grid = points.movedim(1, -1)
    return F.grid_sample(volume, grid, mode=mode, padding_mode=padding, align_corners=True)


def warp(image: Tensor, phi: Tensor, interpolation: str = "linear") -> Tensor:
    """Warp an image by a pull-back map: ``warped(x) = image(phi(x))``, ``(B, C, D, H, W)``.

    The image may lie on another grid than the map. It is read by ``linear`` or ``nearest``
    interpolation; outside of it is 0, the black of an image in [0, 1].
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

    u is ``(B, 3, D, H, W)`` in normalised coordinates, constant beyond its border.
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

    The affine part of ``outer`` is applied to points and the rest interpolated (constant beyond the
    border): affine maps compose without error even where ``inner`` leaves the volume.
    """
    check_volume("outer", outer, channels=3)
    check_volume("inner", inner, channels=3)
    check_same_batch("outer", outer, "inner", inner)
    matrix, offset = affine_part(outer)
    rest = outer - affine_map(matrix, offset, outer.shape[2:])
    moved = (matrix @ inner.flatten(2) + offset[..., None]).unflatten(2, inner.shape[2:])
    return moved + warp_displacement(rest, inner)


def resize(field: Tensor, shape: Sequence[int]) -> Tensor:
    """Resample ``(B, C, D, H, W)`` trilinearly to another grid of the same volume; units stay."""
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
    """Give the grid of a pyramid level: the part ``scale`` of the voxels a side, 2 or more."""
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

    Levels are corner aligned: normalised coordinates mean the same on all of them. At the border
    the Gaussian is cut and re-normalised. Deviation: the authors' code does not smooth, which
    aliases.
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

    By central differences, one-sided at the border.
    """
    check_volume("phi", phi, channels=3)
    gradients = torch.gradient(phi, spacing=spacing(phi.shape[2:]), dim=(2, 3, 4))
    normal = torch.linalg.cross(gradients[1], gradients[2], dim=1)
    return (gradients[0] * normal).sum(dim=1)
