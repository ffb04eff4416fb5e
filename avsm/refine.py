"""Instance optimisation: refine what the networks predict on the pair itself.

The momenta of all vSVF steps are refined together, each in its place of the composition, so that
zero iterations give the networks' own registration and the regularisation stays that of training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from avsm.affine import Affine
from avsm.checks import check_choice
from avsm.descent import Objective, Report, descend_adam, descend_lbfgs
from avsm.flow import advance
from avsm.losses import LAMBDA_VR, LAMBDA_VS, Losses, asymmetry, both_directions
from avsm.maps import half_shape, resize, warp
from avsm.model import AVSM, Registration, Step
from avsm.optimise import Callback, Reporter, check_rates, decaying_rates, full_pair
from avsm.pyramid import WINDOWS, level_windows
from avsm.similarity import mk_lncc_loss

OPTIMISERS = ("adam", "lbfgs")


@dataclass(frozen=True)
class RefineSettings:
    """How a registration is refined.

    Attributes
    ----------
    optimiser
        ``lbfgs``, which never leaves a higher loss than the networks', or ``adam``, which may when
        iterations are few; the affine parameters need ``adam``.
    learning_rate, final_rate
        Step size of Adam at the start and at the end, in the momentum's units.
    affine
        Whether the affine parameters are refined too.
    affine_factor
        Their step size as a factor of the momentum's.
    first_step
        Largest velocity that the first step of L-BFGS may add, in normalised coordinates.
    symmetric
        Refine both directions of the pair together, with the symmetry term.
    windows
        ``paper`` or ``dense``, see ``pyramid.level_windows``.
    lambda_vr, lambda_vs
        Weights of regularisation (Eq. 9) and symmetry (Eq. 10).
    log_every
        Iterations between two lines of the log; 0 for none.
    """

    optimiser: str = "lbfgs"
    learning_rate: float = 0.05
    final_rate: float = 0.005
    affine: bool = False
    affine_factor: float = 0.01
    first_step: float = 0.02
    symmetric: bool = False
    windows: str = "dense"
    lambda_vr: float = LAMBDA_VR
    lambda_vs: float = LAMBDA_VS
    log_every: int = 20

    def __post_init__(self) -> None:
        check_choice("optimiser", self.optimiser, OPTIMISERS)
        check_choice("windows", self.windows, tuple(WINDOWS))
        check_rates(self.learning_rate, self.final_rate)
        if self.affine and self.optimiser != "adam":
            raise ValueError(
                f"optimiser: expected adam where affine is refined, found {self.optimiser}"
            )


class Refined(NamedTuple):
    """The result of ``refine``.

    Attributes
    ----------
    registration
        As the model gives it, for the pairs' one direction, with refined maps and momenta.
    before, after
        The losses of the model's registration and of the refined one.
    evaluations
        Function evaluations, each one forward and one backward pass.
    """

    registration: Registration
    before: Losses
    after: Losses
    evaluations: int


@torch.inference_mode(False)
@torch.enable_grad()
def refine(
    model: AVSM,
    fixed: torch.Tensor,
    moving: torch.Tensor,
    iterations: int,
    settings: RefineSettings | None = None,
    affine_steps: int | None = None,
    steps: int | None = None,
    callback: Callback | None = None,
) -> Refined:
    """Register with the networks, then descend the loss over their momenta.

    Parameters
    ----------
    model
        The model; its weights stay as they are.
    fixed, moving
        ``(B, 1, D, H, W)``, intensities in [0, 1].
    iterations
        Number of iterations; 0 gives the model's registration.
    settings
        The defaults when None.
    affine_steps, steps
        As for the model. Without vSVF steps a momentum is optimised from zero.
    callback
        Called with ``Progress`` in every iteration.

    Returns
    -------
    Refined
        The registration and its losses.
    """
    settings = settings or RefineSettings()
    if iterations < 0:
        raise ValueError(f"iterations: expected at least 0, found {iterations}")
    fixed, moving = full_pair(fixed, moving)
    pairs = fixed.shape[0]
    if settings.symmetric:
        fixed, moving = both_directions(fixed, moving)
    with torch.no_grad():
        start = model(fixed, moving, affine_steps, steps)
    affine = Affine(*(part.clone() for part in start.affines[-1]))
    momenta = [step.momentum for step in start.steps] or [_zero_momentum(fixed)]
    if settings.affine:
        affine = Affine(*(part.requires_grad_() for part in affine))
    objective = _objective(model, fixed, moving, affine, len(momenta), settings)
    momentum = torch.cat(momenta)
    before = _losses(objective, momentum)
    report = Reporter("refine", settings.log_every, callback).level(1.0, iterations)
    momentum = _descend(objective, momentum, iterations, settings, affine, report)
    after = _losses(objective, momentum)
    if iterations:
        start = _registration(model, moving, start, affine, momentum.chunk(len(momenta)))
    return Refined(_first(start, pairs), before, after, objective.evaluations)


def _zero_momentum(fixed: torch.Tensor) -> torch.Tensor:
    shape = half_shape(fixed.shape[2:])
    return torch.zeros(fixed.shape[0], 3, *shape, dtype=fixed.dtype, device=fixed.device)


def _objective(
    model: AVSM,
    fixed: torch.Tensor,
    moving: torch.Tensor,
    affine: Affine,
    steps: int,
    settings: RefineSettings,
) -> Objective:
    """Give the loss of all steps' momenta, stacked in the batch.

    Deviation: Eq. 12 adds up the similarity and symmetry of every step; only the last step's map is
    used afterwards, so that only it is judged here. The energies are added up as in Eq. 12.
    """
    shape, config = fixed.shape[2:], model.config
    windows = level_windows(shape, 1.0, settings.windows)
    directions = 2 if settings.symmetric else 1
    none = torch.zeros((), dtype=fixed.dtype, device=fixed.device)

    def data(velocity: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        low = affine.map(half_shape(shape))
        for part in velocity.chunk(steps):
            low = advance(low, part, config.solver, config.solver_steps)
        warped = warp(moving, resize(low, shape))
        similarity = directions * mk_lncc_loss(warped, fixed, windows).mean()
        if not settings.symmetric:
            return similarity, none
        return similarity, settings.lambda_vs * asymmetry(*low.chunk(2)).mean()  # Eq. 10

    pairs = fixed.shape[0] // directions
    return Objective(data, model.smoother, settings.lambda_vr / pairs)


def _losses(objective: Objective, momentum: torch.Tensor) -> Losses:
    with torch.no_grad():
        return objective.losses(momentum, objective.smoother(momentum))


def _descend(
    objective: Objective,
    momentum: torch.Tensor,
    iterations: int,
    settings: RefineSettings,
    affine: Affine,
    report: Report,
) -> torch.Tensor:
    if settings.optimiser == "lbfgs":
        return descend_lbfgs(objective, momentum, iterations, report, settings.first_step)
    rates = decaying_rates(settings.learning_rate, settings.final_rate, iterations)
    extra = tuple(affine) if settings.affine else ()
    return descend_adam(objective, momentum, rates, report, extra, settings.affine_factor)


@torch.no_grad()
def _registration(
    model: AVSM,
    moving: torch.Tensor,
    start: Registration,
    affine: Affine,
    momenta: Sequence[torch.Tensor],
) -> Registration:
    """Run the model's vSVF steps with the refined momenta."""
    affine = Affine(*(part.detach() for part in affine))
    low = affine.map(momenta[0].shape[2:])
    steps: list[Step] = []
    for momentum in momenta:
        steps.append(model.vsvf(momentum, low, moving))
        low = steps[-1].low_map
    affine_warped = warp(moving, affine.map(moving.shape[2:]))
    affines = (*start.affines[:-1], affine)
    return Registration(affines, affine_warped, tuple(steps), steps[-1].map, steps[-1].warped)


def _first(result: Registration, pairs: int) -> Registration:
    """Keep the first items of the batch: the direction that was asked for."""
    return Registration(
        tuple(Affine(*(part[:pairs] for part in affine)) for affine in result.affines),
        result.affine_warped[:pairs],
        tuple(Step(*(part[:pairs] for part in step)) for step in result.steps),
        result.map[:pairs],
        result.warped[:pairs],
    )
