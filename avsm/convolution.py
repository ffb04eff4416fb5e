"""The networks' convolution."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

SMALL = 20480  # voxels of all channels in a slab of one voxel's width, as PyTorch counts them
SHALLOW = 2  # voxels along a side of images whose bfloat16 gradient oneDNN gets wrong


class Conv3d(nn.Conv3d):
    """PyTorch's, less two faults of its convolutions on a processor.

    One small float32 image takes a slow path. For two images it takes oneDNN, which is several
    times faster for both than that for one: with a second, unused image a pair is registered in
    half the time. And where a side of images has one or two voxels oneDNN's bfloat16 gradient of
    the weights may be what the memory held before (PyTorch 2.13): float32 convolves those.
    """

    def forward(self, x: torch.Tensor, stride: int | None = None) -> torch.Tensor:
        """Convolve ``(B, C, D, H, W)``, with another stride than the layer's where one is given."""
        stride = self.stride if stride is None else stride
        if _is_shallow_half(x):
            with torch.autocast(x.device.type, enabled=False):
                return self._convolve(x.float(), stride)
        if _takes_slow_path(x):
            return self._convolve(x.expand(2, *x.shape[1:]), stride)[:1]
        return self._convolve(x, stride)

    def _convolve(self, x: torch.Tensor, stride: int | tuple[int, ...]) -> torch.Tensor:
        return F.conv3d(x, self.weight, self.bias, stride, self.padding, self.dilation)


def _is_shallow_half(x: torch.Tensor) -> bool:
    return (
        x.device.type == "cpu" and torch.is_autocast_enabled("cpu") and min(x.shape[2:]) <= SHALLOW
    )


def _takes_slow_path(x: torch.Tensor) -> bool:
    half = torch.is_autocast_enabled(x.device.type) or x.dtype != torch.float32
    return x.device.type == "cpu" and not half and len(x) == 1 and x[0, ..., 0].numel() <= SMALL
