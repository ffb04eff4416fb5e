"""AVSM: affine steps, then vSVF steps that refine the map (Fig. 1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn

from avsm.affine import Affine
from avsm.affine_net import AffineNet
from avsm.checks import check_same_shape, check_volume
from avsm.flow import advance
from avsm.maps import half_shape, resize, warp
from avsm.model_settings import AVSMConfig
from avsm.momentum import MomentumNet
from avsm.pyramid import downsample
from avsm.smoothing import MultiGaussian


class Step(NamedTuple):
    """What one vSVF step gives.

    Attributes
    ----------
    momentum, velocity
        m and v = K m, ``(B, 3, D', H', W')`` at half the resolution.
    low_map
        The map after the step, ``(B, 3, D', H', W')``; affine part and earlier steps included.
    map
        The same at full resolution, ``(B, 3, D, H, W)``.
    warped
        The moving image read at ``map``, ``(B, 1, D, H, W)``: interpolated once.
    """

    momentum: torch.Tensor
    velocity: torch.Tensor
    low_map: torch.Tensor
    map: torch.Tensor
    warped: torch.Tensor


class Registration(NamedTuple):
    """The result for a batch.

    Attributes
    ----------
    affines
        The composed affine parameters after each affine step.
    affine_warped
        The moving image under the last of them, ``(B, 1, D, H, W)``.
    steps
        The vSVF steps; empty when none was asked for.
    map
        The final map, ``(B, 3, D, H, W)``.
    warped
        The moving image read at it, ``(B, 1, D, H, W)``.
    """

    affines: tuple[Affine, ...]
    affine_warped: torch.Tensor
    steps: tuple[Step, ...]
    map: torch.Tensor
    warped: torch.Tensor


class AVSM(nn.Module):
    """Register pairs of images with both networks.

    Parameters
    ----------
    config
        The model; the paper's when None.
    """

    def __init__(self, config: AVSMConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or AVSMConfig()
        self.affine_net = AffineNet(config.affine, config.precision)
        self.momentum_net = MomentumNet(config.momentum, config.precision)
        self.smoother = MultiGaussian(config.sigmas, config.weights)

    def forward(
        self,
        fixed: torch.Tensor,
        moving: torch.Tensor,
        affine_steps: int | None = None,
        steps: int | None = None,
    ) -> Registration:
        """Register the moving images to the fixed ones.

        Parameters
        ----------
        fixed, moving
            ``(B, 1, D, H, W)``, intensities in [0, 1].
        affine_steps, steps
            Number of affine steps (at least 1) and of vSVF steps (0 for affine alone); None takes
            the configuration's.

        Returns
        -------
        Registration
            Maps, momenta and warped images of each step.
        """
        check_volume("fixed", fixed, channels=1)
        check_same_shape("moving", moving, "fixed", fixed)
        affine_steps = self.config.affine_steps if affine_steps is None else affine_steps
        affines = self.affine_net(fixed, moving, affine_steps)
        phi = affines[-1].map(fixed.shape[2:])
        affine_warped = warped = warp(moving, phi)
        steps = self.config.steps if steps is None else steps
        taken = self.vsvf_steps(fixed, moving, affines[-1], steps)
        if taken:
            phi, warped = taken[-1].map, taken[-1].warped
        return Registration(affines, affine_warped, taken, phi, warped)

    def vsvf_steps(
        self,
        fixed: torch.Tensor,
        moving: torch.Tensor,
        start: Affine,
        steps: int,
        scale: float = 1.0,
    ) -> tuple[Step, ...]:
        """Take vSVF steps from an affine map.

        Deviation: with ``config.step_scales`` the first steps see images of less resolution, where
        the network reaches farther; their maps have that resolution. ``scale`` is the part of the
        resolution that the given images have already.
        """
        taken: list[Step] = []
        before = None
        for part in self.config.scales_of(steps, scale):
            if part == before:
                low, warped = taken[-1].low_map, taken[-1].warped
            else:
                seen, source = (downsample(image, part / scale) for image in (fixed, moving))
                shape = seen.shape[2:]
                low, phi = (
                    resize(taken[-1].map, size) if taken else start.map(size)
                    for size in (half_shape(shape), shape)
                )
                warped = warp(source, phi)
            taken.append(self.vsvf(self.momentum_net(warped, seen), low, source))
            before = part
        return tuple(taken)

    def vsvf(self, momentum: torch.Tensor, low_map: torch.Tensor, moving: torch.Tensor) -> Step:
        """Refine a map by a momentum and warp the moving image by it: one vSVF unit (Fig. 3).

        Parameters
        ----------
        momentum
            ``(B, 3, D', H', W')``, predicted or optimised.
        low_map
            The map to start from, on the momentum's grid.
        moving
            ``(B, 1, D, H, W)``.

        Returns
        -------
        Step
            The refined map and the warped image.
        """
        return vsvf_step(
            momentum,
            self.smoother(momentum),
            low_map,
            moving,
            self.config.solver,
            self.config.solver_steps,
        )


def vsvf_step(
    momentum: torch.Tensor,
    velocity: torch.Tensor,
    low_map: torch.Tensor,
    moving: torch.Tensor,
    solver: str = "squaring",
    solver_steps: int | None = None,
    shape: Sequence[int] | None = None,
) -> Step:
    """Advance a low-resolution map by a velocity, up-sample it once and warp (Fig. 3).

    Parameters
    ----------
    momentum, velocity
        m and v = K m, ``(B, 3, D', H', W')``.
    low_map
        The map to start from, ``(B, 3, D', H', W')``.
    moving
        ``(B, 1, D, H, W)``.
    solver, solver_steps
        See ``flow.advance``.
    shape
        (D, H, W) of the fixed image; None if the moving image's grid is of the same size.

    Returns
    -------
    Step
        The step's momentum, velocity, maps and warped image.
    """
    low = advance(low_map, velocity, solver, solver_steps)
    phi = resize(low, moving.shape[2:] if shape is None else shape)
    return Step(momentum, velocity, low, phi, warp(moving, phi))
