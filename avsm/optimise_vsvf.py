"""vSVF registration by numerical optimisation: the paper's vSVF-opt (Section 3).

The momentum that the network would predict is optimised on the pair itself; smoothing, flow and
losses are those of the network's vSVF unit (Eq. 8, 9).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch

from avsm.affine import Affine
from avsm.checks import check_same_batch, check_volume
from avsm.descent import Objective, Report, descend_adam, descend_lbfgs
from avsm.errors import choose
from avsm.losses import LAMBDA_VR, WINDOWS, Losses, mk_lncc_loss
from avsm.maps import half_shape, resize
from avsm.optimise import (
    Callback,
    Level,
    Reporter,
    check_levels,
    check_rates,
    full_pair,
    pyramid_levels,
)
from avsm.settings import PAPER_SIGMAS, PAPER_WEIGHTS, SOLVERS
from avsm.vsvf import MultiGaussian, Step, vsvf_step

OPTIMISERS = ("adam", "lbfgs")
# Deviation: finer than the paper's K, whose velocities are too coarse for cartilage.
FINE_SIGMAS = (0.03, 0.06, 0.1, 0.15, 0.2)
FINE_WEIGHTS = (0.2, 0.2, 0.2, 0.2, 0.2)


@dataclass(frozen=True)
class VSVFSettings:
    """How a momentum is optimised; ``VSVFSettings.preset`` gives named settings.

    Deviation: L-BFGS works in the metric of the regulariser, see ``descent``, the paper's in the
    plain one. Deviation: maps are at half the resolution on every level, where the authors' code
    keeps the coarsest level's at full.

    Attributes
    ----------
    scales, iterations
        Image levels from coarse to fine and the iterations on each.
    optimiser
        ``lbfgs`` or ``adam``.
    learning_rate, final_rate
        Step size of Adam at the start and at the end of each level, in the momentum's units.
    first_step
        Largest velocity that the first step of L-BFGS may add, in normalised coordinates.
    tolerance
        L-BFGS ends a level when a step lowers the loss by less than this fraction.
    windows
        ``paper``, ``dense`` or ``local``, see ``losses.level_windows``.
    lambda_vr
        Weight of the regularisation (Eq. 9).
    sigmas, weights
        The smoothing operator K, widths in the unit cube.
    solver, solver_steps
        See ``vsvf.advance``.
    log_every
        Iterations between two lines of the log; 0 for none.
    """

    scales: tuple[float, ...] = (0.25, 0.5, 1.0)
    iterations: tuple[int, ...] = (10, 20, 40)
    optimiser: str = "lbfgs"
    learning_rate: float = 0.2
    final_rate: float = 0.02
    first_step: float = 0.05
    tolerance: float = 0.0
    windows: str = "local"
    lambda_vr: float = LAMBDA_VR
    sigmas: tuple[float, ...] = FINE_SIGMAS
    weights: tuple[float, ...] = FINE_WEIGHTS
    solver: str = "squaring"
    solver_steps: int | None = None
    log_every: int = 20

    def __post_init__(self) -> None:
        check_levels(self.scales, self.iterations)
        choose("optimiser", self.optimiser, OPTIMISERS)
        choose("windows", self.windows, WINDOWS)
        choose("solver", self.solver, SOLVERS)
        check_rates(self.learning_rate, self.final_rate)

    @staticmethod
    def preset(name: str) -> VSVFSettings:
        """Give a preset: ``paper``, ``adam`` or ``default``."""
        choose("preset", name, PRESETS)
        return PRESETS[name]


PRESETS = {
    "default": VSVFSettings(),
    "adam": VSVFSettings(scales=(1.0,), iterations=(80,), optimiser="adam"),
    "paper": VSVFSettings(
        iterations=(60, 60, 60),
        windows="paper",
        sigmas=PAPER_SIGMAS,
        weights=PAPER_WEIGHTS,
        solver="rk4",
    ),
}


class OptimisedVSVF(NamedTuple):
    """The result of ``optimise_vsvf``.

    Attributes
    ----------
    step
        Momentum, velocity, maps and warped image at full resolution.
    losses
        The terms of the loss there.
    evaluations
        Function evaluations on all levels, each one forward and one backward pass.
    """

    step: Step
    losses: Losses
    evaluations: int

    @property
    def momentum(self) -> torch.Tensor:
        """The momentum, ``(1, 3, D', H', W')`` at half the resolution."""
        return self.step.momentum

    @property
    def map(self) -> torch.Tensor:
        """The map, affine part included, ``(1, 3, D, H, W)``."""
        return self.step.map

    @property
    def warped(self) -> torch.Tensor:
        """The moving image read at the map, ``(1, 1, D, H, W)``."""
        return self.step.warped


@torch.inference_mode(False)
@torch.enable_grad()
def optimise_vsvf(
    fixed: torch.Tensor,
    moving: torch.Tensor,
    initial: Affine,
    settings: VSVFSettings | None = None,
    momentum: torch.Tensor | None = None,
    callback: Callback | None = None,
) -> OptimisedVSVF:
    """Register one pair by optimising the momentum of one vSVF step.

    Parameters
    ----------
    fixed, moving
        ``(1, 1, D, H, W)``, intensities in [0, 1].
    initial
        Affine parameters, from ``optimise_affine`` or the affine network.
    settings
        The default preset when None.
    momentum
        Where to start, ``(1, 3, D', H', W')`` on any grid; zero when None.
    callback
        Called with ``Progress`` in every iteration.

    Returns
    -------
    OptimisedVSVF
        The map, the momentum and the warped image.
    """
    settings = settings or VSVFSettings()
    fixed, moving = full_pair(fixed, moving)
    if fixed.shape[0] != 1:
        raise ValueError(f"fixed: expected a batch of one pair, found {fixed.shape[0]}")
    check_same_batch("initial", initial.matrix, "fixed", fixed)
    initial = Affine(*(part.detach().to(fixed).clone() for part in initial))
    smoother = MultiGaussian(settings.sigmas, settings.weights)
    evaluations = 0
    levels = pyramid_levels(fixed, moving, settings.scales, settings.windows)
    for level, count in zip(levels, settings.iterations, strict=True):
        objective = level_objective(level, initial, smoother, settings)
        momentum = _on_grid(momentum, level.fixed)
        report = Reporter("vsvf", settings.log_every, callback)
        momentum = _descend(objective, momentum, count, settings, report.level(level.scale, count))
        evaluations += objective.evaluations
    with torch.no_grad():
        (full,) = pyramid_levels(fixed, moving, (1.0,), settings.windows)
        momentum = _on_grid(momentum, fixed)
        velocity = smoother(momentum)
        low = initial.map(momentum.shape[2:])
        step = vsvf_step(momentum, velocity, low, moving, settings.solver, settings.solver_steps)
        losses = level_objective(full, initial, smoother, settings).losses(momentum, velocity)
        return OptimisedVSVF(step, losses, evaluations)


def level_objective(
    level: Level, initial: Affine, smoother: MultiGaussian, settings: VSVFSettings
) -> Objective:
    """Give the loss of Eq. 8 on one level, the map at half the resolution of its images."""
    low = initial.map(half_shape(level.fixed.shape[2:]))

    def data(velocity: torch.Tensor) -> torch.Tensor:
        step = vsvf_step(
            velocity, velocity, low, level.moving, settings.solver, settings.solver_steps
        )
        return mk_lncc_loss(step.warped, level.fixed, level.windows).sum()

    return Objective(data, smoother, settings.lambda_vr)


def _on_grid(momentum: torch.Tensor | None, image: torch.Tensor) -> torch.Tensor:
    """Bring a momentum to half the resolution of an image: zero when None, else interpolated."""
    shape = half_shape(image.shape[2:])
    if momentum is None:
        return torch.zeros(1, 3, *shape, dtype=image.dtype, device=image.device)
    check_volume("momentum", momentum, channels=3)
    check_same_batch("momentum", momentum, "fixed", image)
    return resize(momentum.detach().to(image), shape).clone()


def _descend(
    objective: Objective,
    momentum: torch.Tensor,
    count: int,
    settings: VSVFSettings,
    report: Report,
) -> torch.Tensor:
    if settings.optimiser == "adam":
        rates = _decaying_rates(settings.learning_rate, settings.final_rate, count)
        return descend_adam(objective, momentum, rates, report)
    return descend_lbfgs(
        objective, momentum, count, report, settings.first_step, settings.tolerance
    )


def _decaying_rates(first: float, last: float, count: int) -> list[float]:
    """Give ``count`` learning rates that fall geometrically from the first to the last."""
    ratio = last / first
    return [first * ratio ** (i / max(count - 1, 1)) for i in range(count)]
