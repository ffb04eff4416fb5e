"""Registration by numerical optimisation: the paper's affine-opt and vSVF-opt (Section 3).

Affine parameters and a momentum, which networks would predict, are descended on the pair itself
from a coarse image level to the finest; normalised coordinates mean the same on all of them.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple, Self

import torch
from torch import Tensor

from avsm.descent import Objective, Report, descend_adam, descend_lbfgs, reporter
from avsm.errors import choose
from avsm.losses import LAMBDA_VR, WINDOWS, Window, level_windows, mk_lncc_loss
from avsm.maps import (
    Affine,
    affine_from_residual,
    check_pair,
    check_same_batch,
    check_volume,
    downsample,
    half_shape,
    identity_affine,
    resize,
    warp,
)
from avsm.settings import PAPER_SIGMAS, PAPER_WEIGHTS, SOLVERS
from avsm.vsvf import MultiGaussian, advance, vsvf_step

NESTEROV = 0.9  # momentum, the authors' code's; the paper names the learning rate alone
# Deviation: finer than the paper's K, whose velocities are too coarse for cartilage.
FINE_SIGMAS = (0.03, 0.06, 0.1, 0.15, 0.2)
FINE_WEIGHTS = (0.2, 0.2, 0.2, 0.2, 0.2)


@dataclass(frozen=True)
class LevelSettings:
    """What both optimisations are told; ``preset`` gives named settings.

    ``scales`` are image levels, ``iterations`` those on each, ``windows`` as for ``level_windows``.
    """

    optimisers: ClassVar[tuple[str, ...]]
    scales: tuple[float, ...]
    iterations: tuple[int, ...]
    optimiser: str
    learning_rate: float
    windows: str

    def __post_init__(self) -> None:
        if len(self.scales) != len(self.iterations) or not self.scales:
            raise ValueError(
                "scales, iterations: expected as many iterations as scales and at least one, "
                f"found {tuple(self.scales)} and {tuple(self.iterations)}"
            )
        if min(self.iterations) < 0:
            raise ValueError(f"iterations: expected at least 0, found {tuple(self.iterations)}")
        choose("optimiser", self.optimiser, self.optimisers)
        choose("windows", self.windows, WINDOWS)
        rates = tuple(value for name, value in vars(self).items() if name.endswith("_rate"))
        if min(rates) <= 0:
            raise ValueError(f"learning rates: expected values above 0, found {rates}")

    @classmethod
    def preset(cls, name: str) -> Self:
        """Give one of the settings that ``PRESETS`` has of this kind."""
        return PRESETS[cls][choose("preset", name, PRESETS[cls])]


@dataclass(frozen=True)
class AffineSettings(LevelSettings):
    """How affine parameters are optimised: ``iterations`` of ``lbfgs`` are evaluations of the loss.

    Deviation: the default is L-BFGS with windows that read every voxel. The paper's gradient
    descent, with its rate of 1e-4, has not converged after its 450 iterations.
    """

    optimisers = ("lbfgs", "sgd")
    scales: tuple[float, ...] = (0.25, 0.5, 1.0)
    iterations: tuple[int, ...] = (40, 25, 35)
    optimiser: str = "lbfgs"
    learning_rate: float = 2e-3
    windows: str = "dense"


@dataclass(frozen=True)
class VSVFSettings(LevelSettings):
    """How a momentum is optimised.

    ``adam`` has step sizes from ``learning_rate`` to ``final_rate`` on each level, in the
    momentum's units. The first step of ``lbfgs`` adds a velocity of at most ``first_step``, in
    normalised coordinates. ``sigmas`` and ``weights`` are those of K in the unit cube.

    Deviation: L-BFGS works in the metric of the regulariser, see ``descent``, the paper's in the
    plain one; maps are at half the resolution on every level, the authors' coarsest are at full.
    """

    optimisers = ("lbfgs", "adam")
    scales: tuple[float, ...] = (0.25, 0.5, 1.0)
    iterations: tuple[int, ...] = (10, 20, 40)
    optimiser: str = "lbfgs"
    learning_rate: float = 0.2
    windows: str = "local"
    final_rate: float = 0.02
    first_step: float = 0.05
    lambda_vr: float = LAMBDA_VR
    sigmas: tuple[float, ...] = FINE_SIGMAS
    weights: tuple[float, ...] = FINE_WEIGHTS
    solver: str = "squaring"
    solver_steps: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        choose("solver", self.solver, SOLVERS)


# ``paper`` has the paper's learning rate, ``sgd`` the authors' code's: 5e-4 on four times the loss.
SGD = AffineSettings(iterations=(200, 200, 50), optimiser="sgd", windows="paper")
PRESETS: dict[type, dict[str, LevelSettings]] = {
    AffineSettings: {
        "default": AffineSettings(),
        "sgd": SGD,
        "paper": replace(SGD, learning_rate=1e-4),
    },
    VSVFSettings: {
        "default": VSVFSettings(),
        "adam": VSVFSettings(scales=(1.0,), iterations=(80,), optimiser="adam"),
        "paper": VSVFSettings(
            iterations=(60, 60, 60), windows="paper", sigmas=PAPER_SIGMAS, weights=PAPER_WEIGHTS,
            solver="rk4",
        ),
    },
}  # fmt: skip


class Level(NamedTuple):
    """One level of the pyramid: images ``(B, 1, D', H', W')`` and the windows of mk-LNCC."""

    scale: float
    fixed: Tensor
    moving: Tensor
    windows: tuple[Window, ...]


def full_pair(fixed: Tensor, moving: Tensor) -> tuple[Tensor, Tensor]:
    """Check a pair ``(B, 1, D, H, W)`` and copy it: at least float32, free of any graph."""
    check_pair(fixed, moving)
    dtype = torch.promote_types(fixed.dtype, torch.float32)
    fixed, moving = (image.detach().to(dtype, copy=True) for image in (fixed, moving))
    return fixed, moving


def pyramid_levels(
    fixed: Tensor, moving: Tensor, scales: Sequence[float], windows: str
) -> Iterator[Level]:
    """Make the levels of a pair one after the other, see ``downsample``."""
    for scale in scales:
        small = downsample(fixed, scale)
        kernels = level_windows(small.shape[2:], scale, windows)
        yield Level(scale, small, downsample(moving, scale), kernels)


@torch.inference_mode(False)
@torch.enable_grad()
def optimise_affine(
    fixed: Tensor,
    moving: Tensor,
    settings: AffineSettings | None = None,
    initial: Affine | None = None,
) -> Affine:
    """Register pairs affinely by descending mk-LNCC; the pairs of a batch do not interact.

    Images are ``(B, 1, D, H, W)`` in [0, 1]. The map found, from ``initial`` or the identity, is
    phi(x) = A x + b with warped = moving(phi).
    """
    settings = settings or AffineSettings()
    fixed, moving = full_pair(fixed, moving)
    start = initial or identity_affine(fixed.shape[0], fixed)
    matrix, offset = (part.detach().to(fixed) for part in start)
    residual = torch.cat([(matrix - torch.eye(3).to(matrix)).flatten(1), offset], dim=1)
    levels = pyramid_levels(fixed, moving, settings.scales, settings.windows)
    for level, count in zip(levels, settings.iterations, strict=True):
        report = reporter("affine", level.scale, count)
        for pair in range(fixed.shape[0] if count else 0):
            part = slice(pair, pair + 1)
            own = level._replace(fixed=level.fixed[part], moving=level.moving[part])
            residual[part] = _descend_affine(residual[part], own, count, settings, report)
    return affine_from_residual(residual)


def _descend_affine(
    residual: Tensor, level: Level, count: int, settings: AffineSettings, report: Report
) -> Tensor:
    """Descend the parameters ``(1, 12)`` of one pair on one level."""
    leaf = residual.clone().requires_grad_()
    evaluations = itertools.count()

    def loss() -> Tensor:
        optimiser.zero_grad()
        warped = warp(level.moving, affine_from_residual(leaf).map(level.fixed.shape[2:]))
        value = mk_lncc_loss(warped, level.fixed, level.windows)
        value.sum().backward()
        # A line search may look a few times more than it is allowed to.
        report(min(next(evaluations), count - 1), value.detach().mean())
        return value.sum()

    if settings.optimiser == "lbfgs":
        optimiser = torch.optim.LBFGS(
            [leaf], max_iter=count, max_eval=count, tolerance_change=1e-7, tolerance_grad=1e-9,
            history_size=10, line_search_fn="strong_wolfe",
        )  # fmt: skip
        optimiser.step(loss)
    else:
        optimiser = torch.optim.SGD([leaf], settings.learning_rate, NESTEROV, nesterov=True)
        for _ in range(count):
            optimiser.step(loss)
    return leaf.detach()


class OptimisedVSVF(NamedTuple):
    """The result of ``optimise_vsvf`` at full resolution."""

    map: Tensor  # affine part included, ``(1, 3, D, H, W)``
    momentum: Tensor  # at half the resolution
    evaluations: int  # on all levels, each one forward and one backward pass


@torch.inference_mode(False)
@torch.enable_grad()
def optimise_vsvf(
    fixed: Tensor,
    moving: Tensor,
    initial: Affine,
    settings: VSVFSettings | None = None,
    momentum: Tensor | None = None,
) -> OptimisedVSVF:
    """Register one pair ``(1, 1, D, H, W)`` in [0, 1] by the momentum of one vSVF step (Eq. 8).

    The step starts at the affine map ``initial``, the descent at ``momentum`` ``(1, 3, D', H',
    W')``, on any grid, or at zero.
    """
    settings = settings or VSVFSettings()
    fixed, moving = full_pair(fixed, moving)
    if fixed.shape[0] != 1:
        raise ValueError(f"fixed: expected a batch of one pair, found {fixed.shape[0]}")
    check_same_batch("initial", initial.matrix, "fixed", fixed)
    initial = Affine(*(part.detach().to(fixed).clone() for part in initial))
    smoother = MultiGaussian(settings.sigmas, settings.weights)
    solver = (settings.solver, settings.solver_steps)
    evaluations = 0

    def objective_of(level: Level) -> Objective:
        low = initial.map(half_shape(level.fixed.shape[2:]))

        def data(velocity: Tensor) -> Tensor:
            step = vsvf_step(velocity, velocity, low, level.moving, *solver)
            return mk_lncc_loss(step.warped, level.fixed, level.windows).sum()

        return Objective(data, smoother, settings.lambda_vr)

    levels = pyramid_levels(fixed, moving, settings.scales, settings.windows)
    for level, count in zip(levels, settings.iterations, strict=True):
        objective, momentum = objective_of(level), _on_grid(momentum, level.fixed)
        report = reporter("vsvf", level.scale, count)
        if settings.optimiser == "adam":
            # Rates that fall geometrically from the first to the last.
            ratio = settings.final_rate / settings.learning_rate
            parts = (number / max(count - 1, 1) for number in range(count))
            rates = [settings.learning_rate * ratio**part for part in parts]
            momentum = descend_adam(objective, momentum, rates, report)
        else:
            momentum = descend_lbfgs(objective, momentum, count, report, settings.first_step)
        evaluations += objective.evaluations
    with torch.no_grad():
        momentum = _on_grid(momentum, fixed)
        low = advance(initial.map(momentum.shape[2:]), smoother(momentum), *solver)
        return OptimisedVSVF(resize(low, fixed.shape[2:]), momentum, evaluations)


def _on_grid(momentum: Tensor | None, image: Tensor) -> Tensor:
    """Bring a momentum to half the resolution of an image: zero when None, else interpolated."""
    shape = half_shape(image.shape[2:])
    if momentum is None:
        return torch.zeros(1, 3, *shape, dtype=image.dtype, device=image.device)
    check_volume("momentum", momentum, channels=3)
    check_same_batch("momentum", momentum, "fixed", image)
    return resize(momentum.detach().to(image), shape).clone()
