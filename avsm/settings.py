"""All settings of a model and its training, frozen, to and from plain values; without PyTorch."""

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from avsm.errors import UserError, choose, nearest
from avsm.manifest import TASKS
from avsm.values import build, check_kind, flat, rise_to_one

PAPER_SIGMAS = (0.05, 0.10, 0.15, 0.20, 0.25)
PAPER_WEIGHTS = (0.067, 0.133, 0.2, 0.267, 0.333)
LAMBDA_AS = 10.0  # affine symmetry, Eq. 5
LAMBDA_VR = 10.0  # velocity regularisation, Eq. 9
LAMBDA_VS = 500.0  # symmetry of the maps, Eq. 10 as a mean: see ``losses.asymmetry``
SOLVERS = ("squaring", "rk4")
PRECISIONS = ("auto", "float32", "bfloat16")
SCHEDULES = ("halve", "cosine")
SIMILARITIES = ("mk-lncc", "ncc")
WINDOWS = ("paper", "dense")
STARTS = ("network", "inverse")
POSITIVE = ("batches", "rate", "halve_every", "more_batches", "more_rate", "max_minutes", "clip")


@dataclass(frozen=True)
class AffineNetConfig:
    """Size of the affine network; the defaults are the paper's (authors' code)."""

    scale: float = 1.0  # part of the resolution, along each axis, of the images that it sees
    norm: bool = False  # an instance norm behind each convolution

    def __post_init__(self) -> None:
        if not 0 < self.scale <= 1:
            raise UserError(f"model.affine.scale: expected a part in (0, 1], found {self.scale}")


@dataclass(frozen=True)
class MomentumNetConfig:
    """Size of the momentum network; the defaults are the paper's (authors' code)."""

    width: int = 16  # channels at full resolution; they double with each halving
    norm: bool = False  # an instance norm behind each convolution but the last
    # 4, or 3 without the coarsest level: an image of half the paper's size then ends in features of
    # as many voxels as the paper's, 5x12x12.
    halvings: int = 4

    def __post_init__(self) -> None:
        if self.width < 1:
            raise UserError(f"model.momentum.width: expected at least 1, found {self.width}")
        if self.halvings not in (3, 4):
            raise UserError(f"model.momentum.halvings: expected 3 or 4, found {self.halvings}")


@dataclass(frozen=True)
class AVSMConfig:
    """Everything that shapes the model."""

    affine: AffineNetConfig = field(default_factory=AffineNetConfig)
    momentum: MomentumNetConfig = field(default_factory=MomentumNetConfig)
    affine_steps: int = 7  # of a registration, unless a call asks otherwise
    steps: int = 3  # vSVF steps, likewise
    step_scales: tuple[float, ...] = (1.0,)  # resolution of the images each sees, see ``scales_of``
    sigmas: tuple[float, ...] = PAPER_SIGMAS  # of the smoothing operator K, in the unit cube
    weights: tuple[float, ...] = PAPER_WEIGHTS
    solver: str = "squaring"  # or ``rk4``
    solver_steps: int | None = None  # squarings or Runge-Kutta steps; None: the solver's default
    precision: str = "auto"  # of the networks' convolutions, see ``device.autocast``

    def __post_init__(self) -> None:
        for name, least in (("affine_steps", 1), ("steps", 0), ("solver_steps", 1)):
            found = getattr(self, name)
            if found is not None and found < least:
                raise UserError(f"model.{name}: expected at least {least}, found {found}")
        choose("model.solver", self.solver, SOLVERS)
        choose("model.precision", self.precision, PRECISIONS)
        found = [*self.sigmas, *self.weights]
        if len(self.sigmas) != len(self.weights) or not found or min(found) <= 0:
            raise UserError(
                "model.sigmas, model.weights: expected as many of both, all more than 0, found "
                f"{list(self.sigmas)} and {list(self.weights)}"
            )
        if not rise_to_one(self.step_scales):
            found = list(self.step_scales)
            raise UserError(f"model.step_scales: expected parts that rise to 1, found {found}")

    def scales_of(self, steps: int, scale: float = 1.0) -> tuple[float, ...]:
        """Give each vSVF step's scale: the last of ``step_scales``, the finest again for more
        steps.
        """
        own = [part for part in self.step_scales if part <= scale] or [scale]
        return (*own[max(0, len(own) - steps) :], *[own[-1]] * (steps - len(own)))[:steps]

    def to_dict(self) -> dict[str, Any]:
        """Give the configuration as JSON has it."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read what ``to_dict`` gives; absent keys take the paper's values, unknown ones raise."""
        parts = {"affine": AffineNetConfig, "momentum": MomentumNetConfig}
        inner = {name: build(kind, name, values.get(name, {})) for name, kind in parts.items()}
        return build(cls, "model", {**values, **inner})


@dataclass(frozen=True)
class Phase:
    """A part of a stage: coarse images first, fine ones later."""

    # The part of the stage's epochs after which the phase ends, in (0, 1]. An epoch is whole of the
    # phase in which it begins, so that its mean losses are of one kind.
    until: float = 1.0
    steps: int = 1  # of the network that is trained, unless the model takes fewer
    pairs: int = 1  # per batch, each in both directions
    scale: float = 1.0  # part of the resolution, along each axis, of the images


@dataclass(frozen=True)
class Stage:
    """How one network is trained: by Adam, in phases."""

    phases: tuple[Phase, ...] = (Phase(),)
    epochs: int = 200
    batches: int = 400  # in each epoch if they are of whole, single pairs, see ``batches_of``
    max_minutes: float | None = None  # replaces the epochs; such runs do not repeat exactly
    rate: float = 5e-4  # the learning rate at its highest
    schedule: str = "halve"  # every ``halve_every`` epochs; or ``cosine``, down to a hundredth
    halve_every: int = 60
    warmup: float = 0.0  # part of the stage in which the rate rises from 0
    # The largest norm of the gradient; larger ones are scaled down, and batches whose gradient is
    # not finite, or many times as large as usual, are left out. None: no limit, and a gradient that
    # is not finite ends the training.
    clip: float | None = None
    average: float = 0.0  # decay of the moving average of weights that is scored and kept; 0: none
    # In place of epochs, batches and rate where training goes on from a model that was trained
    # long, in the last phase alone. No more epochs: the weights stay.
    more_epochs: int = 2
    more_batches: int = 30
    more_rate: float = 2e-4

    def continued(self) -> Self:
        """Give the stage with which training goes on from weights that were trained long."""
        more = {"epochs": self.more_epochs, "batches": self.more_batches, "rate": self.more_rate}
        return dataclasses.replace(self, phases=self.phases[-1:], **more)

    def phase_at(self, progress: float) -> Phase:
        """Give the phase at a part of the stage in [0, 1)."""
        return next(phase for phase in self.phases if progress < phase.until)

    def batches_of(self, phase: Phase) -> int:
        """Give the number of batches in an epoch: as many voxels as of whole, single pairs."""
        return max(1, round(self.batches / (phase.pairs * phase.scale**3)))

    def rate_at(self, progress: float, epoch: int) -> float:
        """Give the learning rate at a part of the stage in [0, 1)."""
        rise = min(1.0, (progress + 1e-3) / self.warmup) if self.warmup else 1.0
        if self.schedule == "halve":
            return self.rate * rise * 0.5 ** (epoch // self.halve_every)
        return self.rate * rise * max(0.01, 0.5 + 0.5 * math.cos(math.pi * progress))


@dataclass(frozen=True)
class Augmentation:
    """Standard deviations of random changes of training images and of where steps start."""

    # Of the affine map from which the affine network's steps start: antisymmetric (radians) and
    # symmetric part of the logarithm of its matrix, and translation in normalised coordinates.
    turn: float = 0.0
    stretch: float = 0.0
    shift: float = 0.0
    error: float = 0.0  # of the start of the momentum network's steps, as a part of those three
    gamma: float = 0.0  # of the logarithm of the exponent of intensities
    bias: float = 0.0  # of a smooth factor
    noise: float = 0.0


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a training run."""

    preset: str  # that it began as
    task: str  # ``longitudinal``, ``cross-subject`` or ``both``
    model: AVSMConfig
    affine: Stage
    momentum: Stage
    augmentation: Augmentation = field(default_factory=Augmentation)
    similarity: str = "mk-lncc"  # or ``ncc`` of whole images, as the paper's Table 2 compares
    windows: str = "paper"  # of mk-LNCC, or ``dense``
    squared: bool = False  # whether correlations are squared
    lambda_ar: float = 10.0  # C of Eq. 13
    decay_ar: float = 4.0  # K of Eq. 13, in epochs
    lambda_as: float = LAMBDA_AS
    lambda_vr: float = LAMBDA_VR
    lambda_vs: float = LAMBDA_VS
    every_step: bool = False  # affine similarity: the mean over all steps' maps, not the last one's
    # Where vSVF steps start in training: ``network``, at the affine network's map of each
    # direction, or ``inverse``, at that of one direction and its inverse.
    start: str = "network"
    he_weights: bool = False  # start from weights after He et al. (2015), not PyTorch's
    validation_pairs: int = 50  # the most, both directions counted
    seed: int = 2019  # of everything random

    def __post_init__(self) -> None:
        choose("task", self.task, TASKS)
        choose("similarity", self.similarity, SIMILARITIES)
        choose("windows", self.windows, WINDOWS)
        choose("start", self.start, STARTS)
        if not self.decay_ar > 0:
            raise UserError(f"decay_ar: expected more than 0, found {self.decay_ar}")
        for name in ("affine", "momentum"):
            _check_stage(name, getattr(self, name))

    @property
    def least_side(self) -> int:
        """Give the least voxels a side of an image that has 8 where it is coarsest, for windows."""
        phases = (*self.affine.phases, *self.momentum.phases)
        return math.ceil(8 / min(*(phase.scale for phase in phases), *self.model.step_scales))

    def change(self, values: Mapping[str, Any]) -> Self:
        """Change settings by dotted names, such as ``{"affine.rate": 1e-3}``; or UserError."""
        plain = self.to_dict()
        for name, value in flat(values).items():
            inner, *path = plain, *name.split(".")
            for key in path[:-1]:
                inner = inner.get(key) if isinstance(inner, dict) else None
            if not isinstance(inner, dict) or path[-1] not in inner:
                known = list(flat(plain))
                raise UserError(
                    f"recipe: no setting '{name}'{nearest(name, known)}; known are "
                    f"{', '.join(known)}"
                )
            check_kind(name, inner[path[-1]], value)
            inner[path[-1]] = value
        return self.from_dict(plain)

    def continued(self) -> Self:
        """Give the recipe with which training goes on from weights that were trained long."""
        stages = {"affine": self.affine.continued(), "momentum": self.momentum.continued()}
        return dataclasses.replace(self, **stages, lambda_ar=0.0)  # Eq. 13 has long decayed

    def to_dict(self) -> dict[str, Any]:
        """Give the recipe as JSON has it."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read what ``to_dict`` gives."""
        values = dict(values)
        for name in ("affine", "momentum"):
            stage = dict(values[name])
            stage["phases"] = tuple(build(Phase, f"{name}.phases", p) for p in stage["phases"])
            values[name] = build(Stage, name, stage)
        values["augmentation"] = build(Augmentation, "augmentation", values["augmentation"])
        values["model"] = AVSMConfig.from_dict(values["model"])
        return build(cls, "recipe", values)


def _check_stage(name: str, stage: Stage) -> None:
    choose(f"{name}.schedule", stage.schedule, SCHEDULES)
    ends = [phase.until for phase in stage.phases]
    if not rise_to_one(ends):
        raise UserError(f"{name}.phases: expected 'until' to rise to 1, found {ends}")
    for key in POSITIVE:
        value = getattr(stage, key)
        if value is not None and not value > 0:
            raise UserError(f"{name}.{key}: expected more than 0, found {value}")
    for key in ("epochs", "more_epochs"):
        if getattr(stage, key) < 0:
            raise UserError(f"{name}.{key}: expected at least 0, found {getattr(stage, key)}")
    if not 0 <= stage.average < 1:
        raise UserError(f"{name}.average: expected from 0 to below 1, found {stage.average}")
    for phase in stage.phases:
        if not 0 < phase.scale <= 1 or min(phase.pairs, phase.steps) < 1:
            expected = "pairs and steps of at least 1 and a scale in (0, 1]"
            raise UserError(f"{name}.phases: expected {expected}, found {phase}")


# Affine steps of the last phase: multi-step training (section 3).
AFFINE_STEPS = {"longitudinal": 3, "cross-subject": 5, "both": 5}
# What both stages of ``small`` have in common.
SMALL = {"batches": 25, "schedule": "cosine", "warmup": 0.02, "clip": 1.0, "average": 0.99}
PRESETS = {
    # The paper's networks and section 3: training of one affine step first, then of several from
    # its weights. The paper does not say how the epochs are shared.
    "paper": Recipe(
        "paper",
        TASKS[0],
        AVSMConfig(),
        affine=Stage(phases=(Phase(until=0.5), Phase(steps=5))),
        momentum=Stage(phases=(Phase(steps=2),)),
    ),
    # Deviation: for a processor. Both networks learn on images of half the resolution first, where
    # a batch costs an eighth, and the affine network on those alone.
    "small": Recipe(
        "small",
        TASKS[0],
        AVSMConfig(
            AffineNetConfig(scale=0.5, norm=True),
            MomentumNetConfig(norm=True, halvings=3),
            step_scales=(0.5, 1.0),
        ),
        affine=Stage(
            phases=(
                Phase(until=0.15, pairs=4, scale=0.5),
                Phase(until=0.5, steps=2, pairs=4, scale=0.5),
                Phase(until=0.8, steps=3, pairs=4, scale=0.5),
                Phase(steps=5, pairs=4, scale=0.5),
            ),
            epochs=16, rate=1.5e-3, more_batches=10, **SMALL,
        ),
        momentum=Stage(
            phases=(
                Phase(until=0.15, scale=0.5),
                Phase(until=0.45, steps=2, scale=0.5),
                Phase(steps=3),
            ),
            epochs=20, rate=3e-3, more_batches=8, **SMALL,
        ),
        augmentation=Augmentation(turn=0.07, stretch=0.03, shift=0.07, error=0.3),
        lambda_ar=1.0, decay_ar=2.0, lambda_as=0.1, windows="dense", every_step=True,
        start="inverse", he_weights=True, validation_pairs=16,
    ),
}  # fmt: skip


def recipe_preset(name: str, task: str = "cross-subject") -> Recipe:
    """Give the preset ``paper`` or ``small`` for a task, see ``manifest.TASKS``."""
    choose("task", task, TASKS)
    base = PRESETS[choose("preset", name, PRESETS)]
    *phases, last = base.affine.phases
    last = dataclasses.replace(last, steps=AFFINE_STEPS[task])
    affine = dataclasses.replace(base.affine, phases=(*phases, last))
    return dataclasses.replace(base, task=task, affine=affine)
