"""Anti-aliased image pyramids in the frame of the package, and the similarity on their levels.

A coarse image is corner aligned as the fine one is: its first and last voxels lie where the fine
image's do, so that normalised coordinates, hence maps and affine parameters, mean the same place on
every level.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import torch

from avsm.checks import check_volume
from avsm.errors import choose
from avsm.grid import axis_weights
from avsm.similarity import Window, dense_windows, paper_windows

WIDTH = 0.5  # sd of the Gaussian in coarse voxels: damps the coarse grid's highest frequency to .29
LOCAL = 9  # voxels a side of the small window of ``local`` ones


def scaled_shape(shape: Sequence[int], scale: float) -> tuple[int, int, int]:
    """Give the grid of a pyramid level.

    Parameters
    ----------
    shape
        (D, H, W) of the full resolution.
    scale
        Level in (0, 1]; .25 has a quarter of the voxels along each axis, rounded, at least 2.

    Returns
    -------
    tuple of int
        (D', H', W').
    """
    if not 0 < scale <= 1:
        raise ValueError(f"scale: expected a value above 0 and at most 1, found {scale}")
    depth, height, width = (max(2, round(int(n) * scale)) for n in shape)
    return depth, height, width


@functools.lru_cache(maxsize=32)
def _axis_weights(size: int, small: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Give the weights (small, size) of the fine voxels in each coarse one along an axis."""
    with torch.inference_mode(False):  # a cached tensor must stay usable in training
        step = (size - 1) / (small - 1)  # fine voxels from coarse voxel to coarse voxel
        places = step * torch.arange(small, dtype=torch.float64)
        distance = torch.arange(size, dtype=torch.float64) - places[:, None]
        weights = torch.exp(-0.5 * (distance / (WIDTH * step)) ** 2)
        return (weights / weights.sum(dim=1, keepdim=True)).to(dtype).to(device)


def downsample(image: torch.Tensor, scale: float) -> torch.Tensor:
    """Reduce an image to a pyramid level: a Gaussian read at the places of the coarse voxels.

    Deviation: the authors' code interpolates linearly without smoothing, which aliases. At the
    border the Gaussian is cut and re-normalised.

    Parameters
    ----------
    image
        ``(B, C, D, H, W)``.
    scale
        Level in (0, 1], see ``scaled_shape``.

    Returns
    -------
    torch.Tensor
        ``(B, C, D', H', W')``, of the same field of view between the outermost voxel centres.
    """
    check_volume("image", image)
    shape = scaled_shape(image.shape[2:], scale)
    for axis, small in zip((2, 3, 4), shape, strict=True):
        size = image.shape[axis]
        if small < size:
            weights = _axis_weights(size, small, image.dtype, image.device)
            image = torch.tensordot(image, weights, dims=([axis], [1])).movedim(-1, axis)
    return image.contiguous()


def average_to(image: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """Average ``(B, C, D, H, W)`` over equal blocks, which may cut voxels; interpolate to more.

    PyTorch's adaptive pooling lets blocks overlap where sides do not divide, and is not there on
    every device.
    """
    for axis, blocks in enumerate(shape, start=2):
        size = image.shape[axis]
        if size != blocks:
            weights = torch.from_numpy(axis_weights(size, np.linspace(0, size, blocks + 1))).to(
                image
            )
            image = torch.tensordot(image, weights, dims=([axis], [1])).movedim(-1, axis)
    return image.contiguous()


def _lone_window(shape: Sequence[int]) -> tuple[Window, ...]:
    size = max(2, min(int(n) for n in shape) // 2)
    return (Window(1.0, size, dilation=2, stride=max((size + 1) // 4, 1)),)


def _paper(shape: Sequence[int], scale: float) -> tuple[Window, ...]:
    return paper_windows(shape) if scale == 1 else _lone_window(shape)


def _dense(shape: Sequence[int], scale: float) -> tuple[Window, ...]:
    if scale == 1:
        return dense_windows(shape)
    return tuple(Window(w.weight, w.extent, 1, w.stride) for w in _lone_window(shape))


def _local(shape: Sequence[int], scale: float) -> tuple[Window, ...]:
    small = Window(0.5, min(LOCAL, *map(int, shape)), 1, 2)
    return (small, *(w._replace(weight=0.5 * w.weight) for w in _dense(shape, scale)))


WINDOWS = {"paper": _paper, "dense": _dense, "local": _local}


def level_windows(shape: Sequence[int], scale: float, windows: str) -> tuple[Window, ...]:
    """Give the windows of mk-LNCC on a pyramid level (Section 3, baseline methods).

    Parameters
    ----------
    shape
        (D, H, W) of the images on the level.
    scale
        The level: S/4 and S/2 with weights .3 and .7 at 1, S/2 alone below.
    windows
        ``paper``, dilation 2; ``dense``, windows of the same extents that read every voxel; or
        ``local``, those with half of the weight, and one of 9 voxels a side with the other half.

    Returns
    -------
    tuple of Window
        Kernels whose weights sum to 1.
    """
    choose("windows", windows, WINDOWS)
    return WINDOWS[windows](shape, scale)
