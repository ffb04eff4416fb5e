"""Anti-aliased image pyramids in the frame of the package.

A coarse image is corner aligned as the fine one is: its first and last voxels lie where the fine
image's do, so that normalised coordinates, hence maps and affine parameters, mean the same place on
every level.
"""

import functools
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from avsm.checks import check_volume
from avsm.grid import axis_weights

WIDTH = 0.5  # sd of the Gaussian in coarse voxels: damps the coarse grid's highest frequency to .29


def scaled_shape(shape: Sequence[int], scale: float) -> tuple[int, int, int]:
    """Give the grid (D', H', W') of a pyramid level of a grid (D, H, W).

    A scale of .25 leaves a quarter of the voxels along each axis, rounded, at least 2.
    """
    if not 0 < scale <= 1:
        raise ValueError(f"scale: expected a value above 0 and at most 1, found {scale}")
    depth, height, width = (max(2, round(int(n) * scale)) for n in shape)
    return depth, height, width


@functools.lru_cache(maxsize=32)
def _axis_weights(size: int, small: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Give the weights (small, size) of the fine voxels in each coarse one along an axis."""
    with torch.inference_mode(False):  # a cached tensor must stay usable in training
        step = (size - 1) / (small - 1)  # fine voxels from coarse voxel to coarse voxel
        places = step * torch.arange(small, dtype=torch.float64)
        distance = torch.arange(size, dtype=torch.float64) - places[:, None]
        weights = torch.exp(-0.5 * (distance / (WIDTH * step)) ** 2)
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
            weights = _axis_weights(size, small, image.dtype, image.device)
            image = torch.tensordot(image, weights, dims=([axis], [1])).movedim(-1, axis)
    return image.contiguous()


def average_to(image: Tensor, shape: Sequence[int]) -> Tensor:
    """Average ``(B, C, D, H, W)`` over equal blocks, which may cut voxels; interpolate to more.

    PyTorch's adaptive pooling lets blocks overlap where sides do not divide, and is not there on
    every device.
    """
    for axis, blocks in enumerate(shape, start=2):
        size = image.shape[axis]
        if size != blocks:
            edges = np.linspace(0, size, blocks + 1)
            weights = torch.from_numpy(axis_weights(size, edges)).to(image)
            image = torch.tensordot(image, weights, dims=([axis], [1])).movedim(-1, axis)
    return image.contiguous()
