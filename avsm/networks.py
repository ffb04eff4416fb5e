"""The networks: multi-step affine (Section 2.1) and momentum (Section A.3), and their convolution.

Both see images ``(B, 1, D, H, W)`` of any size, with intensities in [0, 1].
"""

import itertools
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avsm.device import autocast
from avsm.grid import axis_weights
from avsm.maps import (
    Affine,
    affine_from_residual,
    check_pair,
    compose_affine,
    downsample,
    identity_affine,
    warp,
)
from avsm.settings import AffineNetConfig, MomentumNetConfig

SMALL = 20480  # voxels of all channels in a slab of one voxel's width, as PyTorch counts them
SHALLOW = 2  # voxels along a side of images whose bfloat16 gradient oneDNN gets wrong
# The affine network's convolutions behind the first: channels, and what halves the resolution.
TRUNK = (
    (32, "pool"), (32, "stride"), (32, None), (32, "pool"), (16, "stride"), (16, None),
    (4, "stride"),
)  # fmt: skip
LAST_GRID = (3, 6, 6)  # what five halvings leave of the paper's 80x192x192 voxels


class Conv3d(nn.Conv3d):
    """PyTorch's, less two faults of its convolutions on a processor.

    One small float32 image takes a slow path: with a second, unused image oneDNN registers a pair
    in half the time. And where a side of images has one or two voxels, oneDNN's bfloat16 gradient
    of the weights may be what the memory held before (PyTorch 2.13): float32 convolves those.
    """

    def forward(self, x: Tensor, stride: int | None = None) -> Tensor:
        """Convolve ``(B, C, D, H, W)``, with another stride than the layer's where one is given."""
        stride = self.stride if stride is None else stride
        half = x.device.type == "cpu" and torch.is_autocast_enabled("cpu")
        if half and min(x.shape[2:]) <= SHALLOW:
            with torch.autocast(x.device.type, enabled=False):
                return self._convolve(x.float(), stride)
        if _takes_slow_path(x):
            return self._convolve(x.expand(2, *x.shape[1:]), stride)[:1]
        return self._convolve(x, stride)

    def _convolve(self, x: Tensor, stride: int | tuple[int, ...]) -> Tensor:
        return F.conv3d(x, self.weight, self.bias, stride, self.padding, self.dilation)


def _takes_slow_path(x: Tensor) -> bool:
    half = torch.is_autocast_enabled(x.device.type) or x.dtype != torch.float32
    return x.device.type == "cpu" and not half and len(x) == 1 and x[0, ..., 0].numel() <= SMALL


class AffineNet(nn.Module):
    """Predict the affine map of a pair in several steps, with one set of weights for all of them.

    Each step sees the fixed image and the moving one under the parameters so far, and predicts the
    refinement that Eq. 1 composes onto them. Deviation: it predicts a residual from the identity
    and starts at zero; the authors' predicts A and b and starts with images collapsed to a point.
    Deviation: halvings that would leave less than 3x6x6 features are left out, and what is more is
    averaged to 3x6x6, so that the same weights take any size; the authors' take one.
    """

    def __init__(self, config: AffineNetConfig | None = None, precision: str = "auto") -> None:
        super().__init__()
        self.config, self.precision = config or AffineNetConfig(), precision
        self.first = Conv3d(1, 16, 3, padding=1)
        widths = [32, *(channels for channels, _ in TRUNK)]
        self.trunk = nn.ModuleList(
            Conv3d(before, after, 3, padding=1) for before, after in itertools.pairwise(widths)
        )
        self.hidden = nn.Linear(widths[-1] * 3 * 6 * 6, 32)
        self.last = nn.Linear(32, 12)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(
        self,
        fixed: Tensor,
        moving: Tensor,
        steps: int = 1,
        start: Affine | None = None,
        scale: float = 1.0,
    ) -> tuple[Affine, ...]:
        """Predict phi(x) = A x + b with warped = moving(phi): its parameters after each step.

        The first step refines ``start``, or the identity; ``scale`` is the images' part of the
        resolution.
        """
        check_pair(fixed, moving)
        if steps < 1:
            raise ValueError(f"steps: expected at least 1, found {steps}")
        further = min(1.0, self.config.scale / scale)
        fixed, moving = (downsample(image, further) for image in (fixed, moving))
        grid = last_grid(fixed.shape[2:])
        halvings = halvings_at(fixed.shape[2:], grid)
        seen = self._see(fixed, halvings)  # once for all steps
        affine, result = start or identity_affine(fixed.shape[0], fixed), []
        for step in range(steps):
            still = step == 0 and start is None  # A_(0) = I, b_(0) = 0
            warped = moving if still else warp(moving, affine.map(moving.shape[2:]))
            x = self._compare(self._see(warped, halvings), seen, halvings)
            # Half precision would round the parameters to some tenths of a voxel.
            x = average_to(x.to(torch.promote_types(x.dtype, torch.float32)), grid).flatten(1)
            residual = self.last(F.relu(self.hidden(x)))
            affine = compose_affine(affine_from_residual(residual), affine)  # Eq. 1
            result.append(affine)
        return tuple(result)

    def _see(self, image: Tensor, halvings: Sequence[str | None]) -> Tensor:
        """Take the first features of an image; both images share the layer."""
        with autocast(image.device, self.precision):
            return self._act(self.first(2 * image - 1), pools=halvings[0] == "pool")

    def _compare(self, warped: Tensor, fixed: Tensor, halvings: Sequence[str | None]) -> Tensor:
        """Take the joint features of both images' first ones, of less and less resolution."""
        with autocast(fixed.device, self.precision):
            x = torch.cat([warped, fixed], dim=1)
            following = [*halvings[1:], None]
            for conv, halving, after in zip(self.trunk, halvings, following, strict=True):
                x = conv(x, stride=2 if halving == "stride" else 1)
                x = self._act(x, pools=after == "pool")
        return x

    def _act(self, x: Tensor, pools: bool) -> Tensor:
        """Pool, where the next convolution is to see less, then activate, which is cheaper so."""
        x = F.max_pool3d(x, 2, ceil_mode=True) if pools else x
        return F.relu(F.instance_norm(x) if self.config.norm else x)


def average_to(image: Tensor, shape: Sequence[int]) -> Tensor:
    """Average ``(B, C, D, H, W)`` over equal blocks, which may cut voxels; interpolate to more.

    The blocks of PyTorch's adaptive pooling overlap, and not every device has it.
    """
    for axis, blocks in enumerate(shape, start=2):
        size = image.shape[axis]
        if size != blocks:
            edges = np.linspace(0, size, blocks + 1)
            weights = torch.from_numpy(axis_weights(size, edges)).to(image)
            image = torch.tensordot(image, weights, dims=([axis], [1])).movedim(-1, axis)
    return image.contiguous()


def last_grid(shape: Sequence[int]) -> tuple[int, int, int]:
    """Give the paper's last grid, its short side along the image's shortest axis."""
    short = min(range(3), key=lambda axis: shape[axis])
    depth, height, width = (LAST_GRID[0] if axis == short else LAST_GRID[1] for axis in range(3))
    return depth, height, width


def halvings_at(shape: Sequence[int], grid: Sequence[int]) -> list[str | None]:
    """Give what halves the resolution at each convolution, as far as ``grid`` allows it."""
    halvings, left = [], list(shape)
    for _, halving in TRUNK:
        half = [-(-n // 2) for n in left]
        enough = all(n >= least for n, least in zip(half, grid, strict=True))
        if halving is not None and enough:
            left = half
        halvings.append(halving if enough else None)
    return halvings


class MomentumNet(nn.Module):
    """Predict a momentum: a residual U-Net without its last decoder level.

    Deviation: the last convolution starts at zero, so that training starts from the affine map;
    sides need not be multiples of 16, as what a decoder level has too much is cut off.
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

    def forward(self, warped: Tensor, fixed: Tensor) -> Tensor:
        """Predict ``(B, 3, D', H', W')`` of half the size, rounded up, at least float32."""
        check_pair(fixed, warped, "warped")
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

    def forward(self, x: Tensor, skip_second: bool = False) -> Tensor:
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

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        up = _cut(F.leaky_relu(self.up(x)), skip)
        joined = F.leaky_relu(self.join(torch.cat([up, skip], dim=1)))
        return F.leaky_relu(self.same(joined)) + joined


class _NormedConv(Conv3d):
    """A convolution with an instance norm: the bias is each channel's mean, ``spread`` its sd."""

    def __init__(self, *sizes: int, **options: int) -> None:
        super().__init__(*sizes, **options)
        self.spread = nn.Parameter(torch.ones(self.out_channels))

    def forward(self, x: Tensor) -> Tensor:
        x = super().forward(x)
        return F.instance_norm(x, weight=self.spread, bias=self.bias) if x[0, 0].numel() > 1 else x


def _conv(channels: int, out: int, stride: int = 1, norm: bool = False) -> Conv3d:
    kind = _NormedConv if norm else Conv3d
    return kind(channels, out, 3, stride=stride, padding=1)


def _cut(x: Tensor, like: Tensor) -> Tensor:
    """Cut the last voxels off where a side is longer than another's."""
    depth, height, width = like.shape[2:]
    return x[:, :, :depth, :height, :width]
