"""The networks' convolution."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

SMALL = 20480  # voxels of all channels in a slab of one voxel's width, as PyTorch counts them


class Conv3d(nn.Conv3d):
    """PyTorch's, which for one small float32 image on a processor takes a slow path.

    For two images it takes oneDNN, which is several times faster for both than that for one: with a
    second, unused image a pair is registered in half the time.
    """

    def forward(self, x: torch.Tensor, stride: int | None = None) -> torch.Tensor:
        """Convolve ``(B, C, D, H, W)``, with another stride than the layer's where one is given."""
        slow = _takes_slow_path(x)
        images = x.expand(2, *x.shape[1:]) if slow else x
        stride = self.stride if stride is None else stride
        result = F.conv3d(images, self.weight, self.bias, stride, self.padding, self.dilation)
        return result[:1] if slow else result


def _takes_slow_path(x: torch.Tensor) -> bool:
    half = torch.is_autocast_enabled(x.device.type) or x.dtype != torch.float32
    return x.device.type == "cpu" and not half and len(x) == 1 and x[0, ..., 0].numel() <= SMALL
