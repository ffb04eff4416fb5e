"""The momentum network: a residual U-Net without its last decoder level (Section A.3).

It sees the warped moving image and the fixed image and gives a momentum at half their resolution.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from avsm.checks import check_same_shape, check_volume
from avsm.convolution import Conv3d
from avsm.maps import half_shape

MULTIPLE = 16  # four halvings


@dataclass(frozen=True)
class MomentumNetConfig:
    """Size of the momentum network; the defaults are the paper's (authors' code).

    Attributes
    ----------
    width
        Channels at full resolution; they double with each halving.
    first_level
        Begin with a convolution at full resolution. It costs most of the time and memory and has no
        skip connection; without it the network starts with a convolution of stride 2.
    white
        Read the output as w in m = K^(-1/2) w instead of as the momentum m, see
        ``smoothing.whiten_inverse``. K damps the fine scales of a momentum, and with them what
        training says about them: without their help a network is slow to learn details.
    """

    width: int = 16
    first_level: bool = True
    white: bool = False


class MomentumNet(nn.Module):
    """Predict a vector momentum, or with ``config.white`` the field that gives it.

    Deviation: the last convolution starts at zero, so that training starts from the affine map.

    Parameters
    ----------
    config
        Sizes.
    """

    def __init__(self, config: MomentumNetConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or MomentumNetConfig()
        w = config.width
        self.first = _conv(2, w) if config.first_level else None
        self.down2 = _Encoder(w if config.first_level else 2, 2 * w, convolutions=3)
        self.down4 = _Encoder(2 * w, 4 * w, convolutions=3)
        self.down8 = _Encoder(4 * w, 8 * w, convolutions=3)
        self.down16 = _Encoder(8 * w, 16 * w, convolutions=2)
        self.up8 = _Decoder(16 * w, 8 * w, 8 * w)
        self.up4 = _Decoder(8 * w, 4 * w, 2 * w)
        self.up2 = nn.ConvTranspose3d(2 * w, 2 * w, 2, stride=2)
        # No activation after the last two convolutions: momenta have either sign.
        self.last = nn.Sequential(_conv(4 * w, w), _conv(w, 3))
        nn.init.zeros_(self.last[-1].weight)
        nn.init.zeros_(self.last[-1].bias)

    def forward(self, warped: torch.Tensor, fixed: torch.Tensor) -> torch.Tensor:
        """Predict the momentum of a pair.

        Parameters
        ----------
        warped, fixed
            ``(B, 1, D, H, W)``, intensities in [0, 1], of any size.

        Returns
        -------
        torch.Tensor
            ``(B, 3, D', H', W')`` of half the size, rounded up, at least float32.
        """
        check_volume("fixed", fixed, channels=1)
        check_same_shape("warped", warped, "fixed", fixed)
        shape = fixed.shape[2:]
        images = _pad(2 * torch.cat([warped, fixed], dim=1) - 1)
        start = images if self.first is None else F.relu(self.first(images))
        d2 = self.down2(start, skip_second=True)
        d4 = self.down4(d2)
        d8 = self.down8(d4)
        u8 = self.up8(self.down16(d8), d8)
        u4 = self.up4(u8, d4)
        u2 = F.leaky_relu(self.up2(u4))
        momentum = self.last(torch.cat([u2, d2], dim=1))
        depth, height, width = half_shape(shape)
        momentum = momentum[:, :, :depth, :height, :width]
        dtype = torch.promote_types(momentum.dtype, torch.float32)
        return momentum.to(dtype)


class _Encoder(nn.Module):
    """Halve the resolution, then convolve with residual links behind the activations."""

    def __init__(self, channels: int, out: int, convolutions: int) -> None:
        super().__init__()
        self.down = _conv(channels, out, stride=2)
        self.same = nn.ModuleList(_conv(out, out) for _ in range(convolutions - 1))

    def forward(self, x: torch.Tensor, skip_second: bool = False) -> torch.Tensor:
        """Run the level; with ``skip_second`` all links start at its first convolution."""
        first = residual = F.relu(self.down(x))
        for conv in self.same:
            residual = F.relu(conv(residual)) + (first if skip_second else residual)
        return residual


class _Decoder(nn.Module):
    """Double the resolution, join the encoder's features, convolve twice with a residual link."""

    def __init__(self, channels: int, skip: int, out: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose3d(channels, skip, 2, stride=2)
        self.join = _conv(2 * skip, out)
        self.same = _conv(out, out)

    def forward(self, x: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        up = F.leaky_relu(self.up(x))
        joined = F.leaky_relu(self.join(torch.cat([up, skip], dim=1)))
        return F.leaky_relu(self.same(joined)) + joined


def _conv(channels: int, out: int, stride: int = 1) -> Conv3d:
    return Conv3d(channels, out, 3, stride=stride, padding=1)


def _pad(images: torch.Tensor) -> torch.Tensor:
    """Repeat the last voxels until each side is a multiple of 16; voxel 0 stays where it is."""
    missing = [-n % MULTIPLE for n in images.shape[2:]]
    if not any(missing):
        return images
    depth, height, width = missing
    return F.pad(images, (0, width, 0, height, 0, depth), mode="replicate")
