"""Images averaged over blocks, and the frame of the smaller images."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from avsm.images import axis_weights
from avsm.precision import full_precision


def reduced_shape(shape: Sequence[int], reduction: int) -> tuple[int, int, int]:
    """Give the shape (D, H, W) of images averaged over blocks of ``reduction`` voxels a side."""
    depth, height, width = (max(2, round(int(n) / reduction)) for n in shape)
    return depth, height, width


def reduce(images: torch.Tensor, reduction: int) -> torch.Tensor:
    """Average images ``(B, 1, D, H, W)`` over blocks of ``reduction`` voxels a side."""
    return average_to(images, reduced_shape(images.shape[2:], reduction))


@full_precision
def average_to(images: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """Average over equal blocks, which may cut voxels, to a smaller grid of the same extent.

    PyTorch's adaptive pooling lets blocks overlap where sides do not divide, and is not there on
    every device.

    Parameters
    ----------
    images
        ``(B, C, D, H, W)``.
    shape
        Of the smaller grid.
    """
    for axis, target in enumerate(shape, start=2):
        if images.shape[axis] != target:
            weights = torch.from_numpy(axis_weights(images.shape[axis], target)).to(images)
            images = torch.tensordot(images, weights, dims=([axis], [1])).movedim(-1, axis)
    return images.contiguous()


def frame_scale(shape: Sequence[int], reduction: int) -> torch.Tensor:
    """Say how much larger coordinates are in the reduced frame: ``(3,)``, in double precision.

    The outermost blocks' centres lie within the image: what is 1 for them, corner aligned, is
    (n - n / m) / (n - 1) in the image, for n voxels averaged to m.
    """
    small = reduced_shape(shape, reduction)
    scale = [(n - 1) / (n - n / m) for n, m in zip(shape, small, strict=True)]
    return torch.tensor(scale, dtype=torch.float64)
