"""All settings of a model and its training: frozen, changed by name, to and from plain values."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from avsm.errors import UserError, choose, nearest
from avsm.manifest import TASKS
from avsm.model_settings import AVSMConfig
from avsm.values import build, check_kind, flat, rise_to_one

LAMBDA_AS = 10.0  # affine symmetry, Eq. 5
LAMBDA_VR = 10.0  # velocity regularisation, Eq. 9
LAMBDA_VS = 500.0  # symmetry of the maps, Eq. 10 as a mean: see ``losses.asymmetry``
SCHEDULES = ("halve", "cosine")
SIMILARITIES = ("mk-lncc", "ncc")
WINDOWS = ("paper", "dense")
STARTS = ("network", "inverse")
POSITIVE = ("batches", "rate", "halve_every", "more_batches", "more_rate", "max_minutes", "clip")


@dataclass(frozen=True)
class Phase:
    """A part of a stage: coarse images first, fine ones later.

    Attributes
    ----------
    until
        The part of the stage's epochs after which it ends, in (0, 1]. An epoch is whole of the
        phase in which it begins, so that its mean losses are of one kind.
    steps
        Steps of the network that is trained, unless ``model`` takes fewer.
    pairs
        Pairs per batch, each in both directions.
    scale
        Part of the resolution to which images are down-sampled along each axis.
    """

    until: float = 1.0
    steps: int = 1
    pairs: int = 1
    scale: float = 1.0


@dataclass(frozen=True)
class Stage:
    """How one network is trained.

    Attributes
    ----------
    phases
        What is done in which part of the stage.
    epochs, batches
        Epochs, and batches in each if they are of whole, single pairs, see ``batches_of``.
    max_minutes
        Wall-clock budget that replaces the number of epochs. Runs with it do not repeat exactly.
    rate
        Adam's learning rate at its highest.
    schedule
        ``halve`` every ``halve_every`` epochs, or ``cosine`` down to a hundredth.
    warmup
        Part of the stage in which the rate rises from 0.
    clip
        The largest norm of the gradient; larger ones are scaled down, and batches whose gradient is
        not finite, or many times as large as usual, are left out. None: no limit, and a gradient
        that is not finite ends the training.
    average
        Decay of the weights' moving average, which is scored and kept; 0: the weights themselves.
    more_epochs, more_batches, more_rate
        Those of training that goes on from a model that was trained long, in the last phase alone.
        No more epochs: the weights stay.
    """

    phases: tuple[Phase, ...] = (Phase(),)
    epochs: int = 200
    batches: int = 400
    max_minutes: float | None = None
    rate: float = 5e-4
    schedule: str = "halve"
    halve_every: int = 60
    warmup: float = 0.0
    clip: float | None = None
    average: float = 0.0
    more_epochs: int = 2
    more_batches: int = 30
    more_rate: float = 2e-4

    def continued(self) -> Stage:
        """Give the stage with which training goes on from weights that were trained long."""
        return dataclasses.replace(
            self,
            phases=self.phases[-1:],
            epochs=self.more_epochs,
            batches=self.more_batches,
            rate=self.more_rate,
        )

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
    """Random changes of training images and of where steps start; standard deviations.

    Attributes
    ----------
    turn, stretch, shift
        Of the affine map from which the affine network's steps start: antisymmetric and symmetric
        part of the logarithm of its matrix (turn in radians), and translation in normalised
        coordinates. The momentum network's start is disturbed by ``error`` times as much.
    gamma, bias, noise
        Logarithm of the exponent of intensities, smooth factor, and noise.
    """

    turn: float = 0.0
    stretch: float = 0.0
    shift: float = 0.0
    error: float = 0.0
    gamma: float = 0.0
    bias: float = 0.0
    noise: float = 0.0


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a training run; ``presets.recipe_preset`` gives named ones.

    Attributes
    ----------
    preset
        The preset that it began as.
    task
        ``longitudinal``, ``cross-subject`` or ``both``.
    model
        The networks.
    affine, momentum
        The two stages.
    augmentation
        Random changes of training images.
    similarity
        ``mk-lncc``, or ``ncc`` of whole images, with which the paper compares it (Table 2).
    windows, squared
        Windows of mk-LNCC, ``paper`` or ``dense``, and whether correlations are squared.
    lambda_ar, decay_ar
        C and K of Eq. 13; K in epochs.
    lambda_as, lambda_vr, lambda_vs
        Weights of Eq. 5, 9 and 10.
    every_step
        Whether the affine similarity is the mean over all steps' maps, not the last one's alone.
    start
        Where vSVF steps start in training: ``network``, at the affine network's map of each
        direction, or ``inverse``, at that of one direction and its inverse.
    he_weights
        Start from weights after He et al. (2015) in place of PyTorch's.
    validation_pairs
        The most validation pairs, both directions counted.
    seed
        Of everything random.
    """

    preset: str
    task: str
    model: AVSMConfig
    affine: Stage
    momentum: Stage
    augmentation: Augmentation = field(default_factory=Augmentation)
    similarity: str = "mk-lncc"
    windows: str = "paper"
    squared: bool = False
    lambda_ar: float = 10.0
    decay_ar: float = 4.0
    lambda_as: float = LAMBDA_AS
    lambda_vr: float = LAMBDA_VR
    lambda_vs: float = LAMBDA_VS
    every_step: bool = False
    start: str = "network"
    he_weights: bool = False
    validation_pairs: int = 50
    seed: int = 2019

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

    def change(self, values: Mapping[str, Any]) -> Recipe:
        """Change settings by dotted names, such as ``{"affine.rate": 1e-3}``.

        Raises
        ------
        UserError
            If a name is unknown; the message has the nearest. If a value is of the wrong kind.
        """
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
        return Recipe.from_dict(plain)

    def continued(self) -> Recipe:
        """Give the recipe with which training goes on from weights that were trained long."""
        stages = {"affine": self.affine.continued(), "momentum": self.momentum.continued()}
        return dataclasses.replace(self, **stages, lambda_ar=0.0)  # Eq. 13 has long decayed

    def to_dict(self) -> dict[str, Any]:
        """Give the recipe as JSON has it."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Recipe:
        """Read what ``to_dict`` gives."""
        values = dict(values)
        for name in ("affine", "momentum"):
            stage = dict(values[name])
            stage["phases"] = tuple(build(Phase, f"{name}.phases", p) for p in stage["phases"])
            values[name] = build(Stage, name, stage)
        values["augmentation"] = build(Augmentation, "augmentation", values["augmentation"])
        values["model"] = AVSMConfig.from_dict(values["model"])
        return build(Recipe, "recipe", values)


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
