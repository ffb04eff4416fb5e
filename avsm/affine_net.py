"""The multi-step affine network: recurrent, one set of weights for all steps (Section 2.1).

Each step sees the fixed image and the moving image, warped once with the parameters composed so
far, and predicts the refinement that Eq. 1 composes onto them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from avsm.affine import (
    Affine,
    affine_from_residual,
    change_frame,
    compose_affine,
    identity_affine,
)
from avsm.checks import check_same_shape, check_volume
from avsm.convolution import Conv3d
from avsm.maps import warp
from avsm.precision import full_precision
from avsm.reduction import average_to, frame_scale, reduce


class Stage(NamedTuple):
    """One convolution of the trunk (kernel 3, ReLU), optionally behind a max-pooling by 2."""

    channels: int
    stride: int = 1
    pool: bool = False


@dataclass(frozen=True)
class AffineNetConfig:
    """Size of the affine network; the defaults are the paper's (authors' code).

    Attributes
    ----------
    features
        Channels of the first convolution, which both images share.
    trunk
        The convolutions that follow on both images' features.
    grid
        (d, h, w) to which the last features are averaged, whatever the size of the images. It is
        what five halvings leave of 80x192x192.
    hidden
        Width of the hidden fully connected layer.
    reduction
        The network works on images that are smaller by this factor per axis, by area averaging.
    keypoints
        0: the paper's network. More: ``keypoint_net`` with so many of them, in which ``trunk`` runs
        on each image by itself; ``grid`` and ``hidden`` have no part in it.
    """

    features: int = 16
    trunk: tuple[Stage, ...] = (
        Stage(32, pool=True),
        Stage(32, stride=2),
        Stage(32),
        Stage(32, pool=True),
        Stage(16, stride=2),
        Stage(16),
        Stage(4, stride=2),
    )
    grid: tuple[int, int, int] = (3, 6, 6)
    hidden: int = 32
    reduction: int = 1
    keypoints: int = 0


class MultiStepAffineNet(nn.Module):
    """The steps of the affine network; subclasses say what one step predicts.

    Parameters
    ----------
    config
        Sizes.
    channels
        Of the features that enter the trunk.
    """

    def __init__(self, config: AffineNetConfig, channels: int) -> None:
        super().__init__()
        self.config = config
        self.first = Conv3d(1, config.features, 3, padding=1)
        layers: list[nn.Module] = []
        for index, stage in enumerate(config.trunk):
            layers += [_pool()] if stage.pool and index else []
            layers += [Conv3d(channels, stage.channels, 3, stage.stride, padding=1), nn.ReLU()]
            channels = stage.channels
        # The trunk's first pooling follows the first convolution at once. A ReLU commutes with it
        # and is cheaper behind it.
        self.pool = _pool() if config.trunk[0].pool else nn.Identity()
        self.trunk = nn.Sequential(*layers)

    def forward(
        self, fixed: torch.Tensor, moving: torch.Tensor, steps: int = 1
    ) -> tuple[Affine, ...]:
        """Predict the parameters of phi(x) = A x + b with warped = moving(phi).

        Parameters
        ----------
        fixed, moving
            ``(B, 1, D, H, W)``, intensities in [0, 1].
        steps
            Number of steps, at least 1.

        Returns
        -------
        tuple of Affine
            The composed parameters after each step; the last are the result.
        """
        check_volume("fixed", fixed, channels=1)
        check_same_shape("moving", moving, "fixed", fixed)
        if steps < 1:
            raise ValueError(f"steps: expected at least 1, found {steps}")
        scale = frame_scale(fixed.shape[2:], self.config.reduction)
        fixed, moving = (reduce(image, self.config.reduction) for image in (fixed, moving))
        scale = scale.to(fixed)
        seen = self._see(fixed, scale)  # once for all steps
        affine = identity_affine(fixed.shape[0], fixed)
        warped, result = moving, []
        for step in range(steps):
            if step:  # A_(0) = I, b_(0) = 0
                warped = warp(moving, change_frame(affine, scale).map(moving.shape[2:]))
            residual = self._residual(self._see(warped, scale), seen, affine)
            affine = compose_affine(affine_from_residual(residual), affine)  # Eq. 1
            result.append(affine)
        return tuple(result)

    def _features(self, image: torch.Tensor) -> torch.Tensor:
        return F.relu(self.pool(self.first(2 * image - 1)))

    def _see(self, image: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        """Take from one image what a step compares.

        Parameters
        ----------
        image
            ``(B, 1, d, h, w)``, reduced.
        scale
            How much larger coordinates are in the reduced frame, ``(3,)``.
        """
        raise NotImplementedError

    def _residual(self, warped: torch.Tensor, fixed: torch.Tensor, affine: Affine) -> torch.Tensor:
        """Predict the step's residual from the identity, ``(B, 12)``.

        Parameters
        ----------
        warped, fixed
            What ``_see`` took from the images.
        affine
            The parameters composed so far.
        """
        raise NotImplementedError


class AffineNet(MultiStepAffineNet):
    """Predict the affine map of a pair in several steps: the paper's network.

    Deviation: the network predicts a residual from the identity and its last layer starts at zero,
    so that training starts from the identity; the authors' predicts A and b themselves and starts
    with images collapsed to a point. Deviation: features are averaged to a fixed grid, so that any
    image size fits the same weights; for 80x192x192 that grid is what the authors flatten.

    Parameters
    ----------
    config
        Sizes.
    """

    def __init__(self, config: AffineNetConfig | None = None) -> None:
        config = config or AffineNetConfig()
        super().__init__(config, channels=2 * config.features)
        depth, height, width = config.grid
        channels = config.trunk[-1].channels * depth * height * width
        self.hidden = nn.Linear(channels, config.hidden)
        self.last = nn.Linear(config.hidden, 12)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def _see(self, image: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        return self._features(image)

    def _residual(self, warped: torch.Tensor, fixed: torch.Tensor, affine: Affine) -> torch.Tensor:
        features = self.trunk(torch.cat([warped, fixed], dim=1))
        if tuple(features.shape[2:]) != self.config.grid:
            features = average_to(features, self.config.grid)
        return self._head(features.flatten(1))

    @full_precision  # half precision would round the parameters to some tenths of a voxel
    def _head(self, features: torch.Tensor) -> torch.Tensor:
        return self.last(F.relu(self.hidden(features)))


def _pool() -> nn.MaxPool3d:
    return nn.MaxPool3d(2, ceil_mode=True)
