"""Training recipes: frozen settings, to and from plain values. Named ones are in ``presets``."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from avsm.config import AVSMConfig
from avsm.errors import UserError, choose, nearest
from avsm.losses import LAMBDA_AS, LAMBDA_VR, LAMBDA_VS
from avsm.pairs import TASKS

Settings = TypeVar("Settings")
SCHEDULES = ("halve", "cosine")
SIMILARITIES = ("mk-lncc", "ncc")
WINDOWS = ("paper", "dense")
MAY_BE_NONE = ("max_minutes", "clip")


@dataclass(frozen=True)
class Phase:
    """A part of a stage.

    Attributes
    ----------
    until
        The part of the stage after which it ends, in (0, 1].
    steps
        Steps of the network that is trained.
    pairs
        Pairs per batch, each in both directions.
    reduction
        Images are averaged to smaller ones by this factor per axis.
    known
        Affine stage: the loss compares with a known affine map, instead of the images. Momentum
        stage: steps start from a known affine map, disturbed, instead of the affine network's.
    """

    until: float = 1.0
    steps: int = 1
    pairs: int = 1
    reduction: int = 1
    known: bool = False


@dataclass(frozen=True)
class StageRecipe:
    """How one of the two networks is trained.

    Attributes
    ----------
    phases
        What is done in which part of the stage.
    epochs, batches
        Epochs, and batches in each.
    max_minutes
        Wall-clock budget that replaces the number of epochs. Runs with it do not repeat exactly.
    rate
        Adam's learning rate at its highest.
    schedule
        ``halve`` every ``halve_every`` epochs, or ``cosine`` down to a hundredth.
    warmup
        Part of the stage in which the rate rises from 0.
    clip
        The largest norm of the gradient; larger ones are scaled down. None: no limit.
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


@dataclass(frozen=True)
class Augmentation:
    """Random changes of training images; standard deviations, lengths in normalised coordinates.

    Attributes
    ----------
    turn, stretch
        Antisymmetric and symmetric part of the logarithm of the affine matrix (turn in radians).
    shift
        Translation.
    shape, shape_width
        Smooth displacement, and the width of its kernel in the unit cube.
    gamma, bias, noise
        Logarithm of the exponent of intensities, smooth factor, and noise.
    """

    turn: float = 0.0
    stretch: float = 0.0
    shift: float = 0.0
    shape: float = 0.0
    shape_width: float = 0.1
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
    alignment
        Iterations of the affine alignment of the training images with their mean, which makes the
        affine map between any two of them known. 0: only copies of one image have known maps.
    he_weights
        Start from weights drawn as in ``initialise.he_weights``, in place of PyTorch's.
    validation_pairs
        The most validation pairs, both directions counted.
    precision
        Of the networks: ``auto``, ``float32`` or ``bfloat16``, see ``device.autocast``.
    seed
        Of everything random.
    """

    preset: str
    task: str
    model: AVSMConfig
    affine: StageRecipe
    momentum: StageRecipe
    augmentation: Augmentation = field(default_factory=Augmentation)
    similarity: str = "mk-lncc"
    windows: str = "paper"
    squared: bool = False
    lambda_ar: float = 10.0
    decay_ar: float = 4.0
    lambda_as: float = LAMBDA_AS
    lambda_vr: float = LAMBDA_VR
    lambda_vs: float = LAMBDA_VS
    alignment: int = 0
    he_weights: bool = False
    validation_pairs: int = 50
    precision: str = "auto"
    seed: int = 2019

    def __post_init__(self) -> None:
        """Check what types cannot say."""
        choose("task", self.task, TASKS)
        choose("similarity", self.similarity, SIMILARITIES)
        choose("windows", self.windows, WINDOWS)
        for name in ("affine", "momentum"):
            _check_stage(name, getattr(self, name))

    def change(self, values: Mapping[str, Any]) -> Recipe:
        """Change settings by dotted names, such as ``{"affine.rate": 1e-3}``.

        Raises
        ------
        UserError
            If a name is unknown; the message has the nearest. If a value is of the wrong kind.
        """
        plain = self.to_dict()
        for name, value in values.items():
            inner, *path = plain, *name.split(".")
            for key in path[:-1]:
                inner = inner.get(key) if isinstance(inner, dict) else None
            if not isinstance(inner, dict) or path[-1] not in inner:
                known = list(flat(plain))
                raise UserError(
                    f"recipe: no setting '{name}'{nearest(name, known)}; known are "
                    f"{', '.join(known)}"
                )
            _check_kind(name, inner[path[-1]], value)
            inner[path[-1]] = value
        return Recipe.from_dict(plain)

    def to_dict(self) -> dict[str, Any]:
        """Give the recipe as JSON has it."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Recipe:
        """Read what ``to_dict`` gives."""
        values = dict(values)
        for name in ("affine", "momentum"):
            stage = dict(values[name])
            stage["phases"] = tuple(_build(Phase, f"{name}.phases", p) for p in stage["phases"])
            values[name] = _build(StageRecipe, name, stage)
        values["augmentation"] = _build(Augmentation, "augmentation", values["augmentation"])
        values["model"] = AVSMConfig.from_dict(values["model"])
        return _build(Recipe, "recipe", values)


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Give nested settings by dotted names."""
    result: dict[str, Any] = {}
    for key, value in values.items():
        nested = isinstance(value, dict)
        result |= flat(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value}
    return result


def _build(kind: type[Settings], where: str, values: Mapping[str, Any]) -> Settings:
    known = [item.name for item in dataclasses.fields(kind)]
    for key in values:
        if key not in known:
            raise UserError(f"{where}: no setting '{key}'{nearest(key, known)}")
    return kind(**values)


def _check_kind(name: str, before: Any, value: Any) -> None:
    """Raise UserError unless a value is of the kind that it replaces."""
    if name.split(".")[-1] in MAY_BE_NONE:
        kinds, expected = (int, float, type(None)), "a number or null"
    else:
        kinds, expected = {
            bool: (bool, "true or false"),
            int: (int, "a whole number"),
            float: ((int, float), "a number"),
            str: (str, "a word"),
            list: (list, "a list"),
            dict: (dict, "names with values"),
        }[type(before)]
    if not isinstance(value, kinds) or (isinstance(value, bool) and kinds is not bool):
        raise UserError(f"{name}: expected {expected}, found {value!r}")


def _check_stage(name: str, stage: StageRecipe) -> None:
    choose(f"{name}.schedule", stage.schedule, SCHEDULES)
    ends = [phase.until for phase in stage.phases]
    if not ends or ends != sorted(ends) or ends[0] <= 0 or ends[-1] != 1:
        raise UserError(f"{name}.phases: expected 'until' to rise to 1, found {ends}")
    for key in ("epochs", "batches", "rate"):
        if not getattr(stage, key) > 0:
            raise UserError(f"{name}.{key}: expected more than 0, found {getattr(stage, key)}")
    if stage.max_minutes is not None and not stage.max_minutes > 0:
        raise UserError(f"{name}.max_minutes: expected more than 0, found {stage.max_minutes}")
