"""The momentum network: a residual U-Net without its last decoder level (Section A.3).

It sees the warped moving image and the fixed image and gives a momentum at half their resolution.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from avsm.checks import check_same_shape, check_volume
from avsm.convolution import Conv3d
from avsm.device import autocast
from avsm.model_settings import MomentumNetConfig


class MomentumNet(nn.Module):
    """Predict a vector momentum.

    Deviation: the last convolution starts at zero, so that training starts from the affine map.
    Deviation: sides need not be multiples of 16; what a decoder level has too much is cut off.

    Parameters
    ----------
    config
        Sizes.
    precision
        Of the convolutions, see ``device.autocast``.
    """

    def __init__(self, config: MomentumNetConfig | None = None, precision: str = "auto") -> None:
        super().__init__()
        self.config, self.precision = config or MomentumNetConfig(), precision
        w, norm = self.config.width, self.config.norm
        self.first = _conv(2, w, norm=norm)
        self.down2 = _Encoder(w, 2 * w, 3, norm)
        self.down4 = _Encoder(2 * w, 4 * w, 3, norm)
        self.down8 = _Encoder(4 * w, 8 * w, 3, norm)
        if self.config.halvings == 4:
            self.down16 = _Encoder(8 * w, 16 * w, 2, norm)
            self.up8 = _Decoder(16 * w, 8 * w, 8 * w, norm)
        self.up4 = _Decoder(8 * w, 4 * w, 2 * w, norm)
        self.up2 = nn.ConvTranspose3d(2 * w, 2 * w, 2, stride=2)
        # No activation after the last two convolutions: momenta have either sign.
        self.last = nn.Sequential(_conv(4 * w, w, norm=norm), _conv(w, 3))
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
        with autocast(fixed.device, self.precision):
            images = 2 * torch.cat([warped, fixed], dim=1) - 1
            d2 = self.down2(F.relu(self.first(images)), skip_second=True)
            d4 = self.down4(d2)
            d8 = self.down8(d4)
            u8 = self.up8(self.down16(d8), d8) if self.config.halvings == 4 else d8
            u4 = self.up4(u8, d4)
            u2 = _cut(F.leaky_relu(self.up2(u4)), d2)
            momentum = self.last(torch.cat([u2, d2], dim=1))
        return momentum.to(torch.promote_types(momentum.dtype, torch.float32))


class _Encoder(nn.Module):
    """Halve the resolution, then convolve with residual links behind the activations."""

    def __init__(self, channels: int, out: int, convolutions: int, norm: bool) -> None:
        super().__init__()
        self.down = _conv(channels, out, 2, norm)
        self.same = nn.ModuleList(_conv(out, out, norm=norm) for _ in range(convolutions - 1))

    def forward(self, x: torch.Tensor, skip_second: bool = False) -> torch.Tensor:
        """Run the level; with ``skip_second`` all links start at its first convolution."""
        first = residual = F.relu(self.down(x))
        for conv in self.same:
            residual = F.relu(conv(residual)) + (first if skip_second else residual)
        return residual


class _Decoder(nn.Module):
    """Double the resolution, join the encoder's features, convolve twice with a residual link."""

    def __init__(self, channels: int, skip: int, out: int, norm: bool) -> None:
        super().__init__()
        self.up = nn.ConvTranspose3d(channels, skip, 2, stride=2)
        self.join = _conv(2 * skip, out, norm=norm)
        self.same = _conv(out, out, norm=norm)

    def forward(self, x: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        up = _cut(F.leaky_relu(self.up(x)), skip)
        joined = F.leaky_relu(self.join(torch.cat([up, skip], dim=1)))
        return F.leaky_relu(self.same(joined)) + joined


class _NormedConv(Conv3d):
    """A convolution with an instance norm: the bias is each channel's mean, ``spread`` its sd."""

    def __init__(self, *sizes: int, **options: int) -> None:
        super().__init__(*sizes, **options)
        self.spread = nn.Parameter(torch.ones(self.out_channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = super().forward(x)
        return F.instance_norm(x, weight=self.spread, bias=self.bias) if x[0, 0].numel() > 1 else x


def _conv(channels: int, out: int, stride: int = 1, norm: bool = False) -> Conv3d:
    kind = _NormedConv if norm else Conv3d
    return kind(channels, out, 3, stride=stride, padding=1)


def _cut(x: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Cut the last voxels off where a side is longer than another's."""
    depth, height, width = like.shape[2:]
    return x[:, :, :depth, :height, :width]
