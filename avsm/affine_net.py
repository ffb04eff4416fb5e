"""The multi-step affine network: recurrent, one set of weights for all steps (Section 2.1).

Each step sees the fixed image and the moving image, warped once with the parameters composed so
far, and predicts the refinement that Eq. 1 composes onto them.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from avsm.affine import Affine, affine_from_residual, compose_affine, identity_affine
from avsm.checks import check_same_shape, check_volume
from avsm.convolution import Conv3d
from avsm.device import autocast
from avsm.maps import warp
from avsm.model_settings import AffineNetConfig
from avsm.pyramid import average_to, downsample

# The convolutions behind the first: channels, and what halves the resolution at each, if anything.
TRUNK = (
    (32, "pool"),
    (32, "stride"),
    (32, None),
    (32, "pool"),
    (16, "stride"),
    (16, None),
    (4, "stride"),
)
LAST_GRID = (3, 6, 6)  # what five halvings leave of the paper's 80x192x192 voxels


class AffineNet(nn.Module):
    """Predict the affine map of a pair in several steps.

    Deviation: the network predicts a residual from the identity and its last layer starts at zero,
    so that training starts from the identity; the authors' predicts A and b themselves and starts
    with images collapsed to a point. Deviation: of the five halvings the last are left out that
    would leave less than 3x6x6 features of an image smaller than the paper's, and what is more is
    averaged to 3x6x6, so that the same weights take any size; the authors' take one.

    Parameters
    ----------
    config
        Sizes.
    precision
        Of the convolutions, see ``device.autocast``.
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
        fixed: torch.Tensor,
        moving: torch.Tensor,
        steps: int = 1,
        start: Affine | None = None,
        scale: float = 1.0,
    ) -> tuple[Affine, ...]:
        """Predict the parameters of phi(x) = A x + b with warped = moving(phi).

        Parameters
        ----------
        fixed, moving
            ``(B, 1, D, H, W)``, intensities in [0, 1].
        steps
            Number of steps, at least 1.
        start
            Parameters that the first step refines; the identity when None.
        scale
            Part of the resolution to which the images are down-sampled already.

        Returns
        -------
        tuple of Affine
            The composed parameters after each step; the last are the result.
        """
        check_volume("fixed", fixed, channels=1)
        check_same_shape("moving", moving, "fixed", fixed)
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

    def _see(self, image: torch.Tensor, halvings: Sequence[str | None]) -> torch.Tensor:
        """Take the first features of an image; both images share the layer."""
        with autocast(image.device, self.precision):
            return self._act(self.first(2 * image - 1), pools=halvings[0] == "pool")

    def _compare(
        self, warped: torch.Tensor, fixed: torch.Tensor, halvings: Sequence[str | None]
    ) -> torch.Tensor:
        """Take the joint features of both images' first ones, of less and less resolution."""
        with autocast(fixed.device, self.precision):
            x = torch.cat([warped, fixed], dim=1)
            following = [*halvings[1:], None]
            for conv, halving, after in zip(self.trunk, halvings, following, strict=True):
                x = conv(x, stride=2 if halving == "stride" else 1)
                x = self._act(x, pools=after == "pool")
        return x

    def _act(self, x: torch.Tensor, pools: bool) -> torch.Tensor:
        """Pool, where the next convolution is to see less, then activate, which is cheaper so."""
        x = F.max_pool3d(x, 2, ceil_mode=True) if pools else x
        return F.relu(F.instance_norm(x) if self.config.norm else x)


def last_grid(shape: Sequence[int]) -> tuple[int, int, int]:
    """Give the paper's last grid, its short side along the image's shortest axis."""
    short = min(range(3), key=lambda axis: shape[axis])
    depth, height, width = (LAST_GRID[0] if axis == short else LAST_GRID[1] for axis in range(3))
    return depth, height, width


def halvings_at(shape: Sequence[int], grid: Sequence[int]) -> list[str | None]:
    """Give what halves the resolution at each convolution of the trunk, if anything does.

    The first halvings take place, as long as they leave at least ``grid`` of an image.
    """
    halvings, left = [], list(shape)
    for _, halving in TRUNK:
        half = [-(-n // 2) for n in left]
        enough = all(n >= least for n, least in zip(half, grid, strict=True))
        if halving is not None and enough:
            left = half
        halvings.append(halving if enough else None)
    return halvings
