"""What shapes the networks and the model; read where runs are planned, hence without PyTorch."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from avsm.errors import UserError, choose
from avsm.values import build, rise_to_one

PAPER_SIGMAS = (0.05, 0.10, 0.15, 0.20, 0.25)
PAPER_WEIGHTS = (0.067, 0.133, 0.2, 0.267, 0.333)
SOLVERS = ("squaring", "rk4")
PRECISIONS = ("auto", "float32", "bfloat16")


@dataclass(frozen=True)
class AffineNetConfig:
    """Size of the affine network; the defaults are the paper's (authors' code).

    Attributes
    ----------
    scale
        The network sees images down-sampled to this part of the resolution along each axis.
    norm
        An instance norm behind each convolution.
    """

    scale: float = 1.0
    norm: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.scale <= 1:
            raise UserError(f"model.affine.scale: expected a part in (0, 1], found {self.scale}")


@dataclass(frozen=True)
class MomentumNetConfig:
    """Size of the momentum network; the default is the paper's (authors' code).

    Attributes
    ----------
    width
        Channels at full resolution; they double with each halving.
    norm
        An instance norm behind each convolution but the last.
    halvings
        4, or 3 without the coarsest level: an image of half the paper's size then ends in features
        of as many voxels as the paper's, 5x12x12.
    """

    width: int = 16
    norm: bool = False
    halvings: int = 4

    def __post_init__(self) -> None:
        if self.width < 1:
            raise UserError(f"model.momentum.width: expected at least 1, found {self.width}")
        if self.halvings not in (3, 4):
            raise UserError(f"model.momentum.halvings: expected 3 or 4, found {self.halvings}")


@dataclass(frozen=True)
class AVSMConfig:
    """Everything that shapes the model.

    Attributes
    ----------
    affine, momentum
        Sizes of the two networks.
    affine_steps, steps
        Affine and vSVF steps of a registration, unless a call asks otherwise.
    step_scales
        Part of the resolution at which each vSVF step sees the images, see ``scales_of``.
    sigmas, weights
        The smoothing operator K, widths in the unit cube.
    solver
        ``squaring`` or ``rk4``.
    solver_steps
        Squarings or Runge-Kutta steps; None takes the solver's default.
    precision
        Of the networks' convolutions, see ``device.autocast``.
    """

    affine: AffineNetConfig = field(default_factory=AffineNetConfig)
    momentum: MomentumNetConfig = field(default_factory=MomentumNetConfig)
    affine_steps: int = 7
    steps: int = 3
    step_scales: tuple[float, ...] = (1.0,)
    sigmas: tuple[float, ...] = PAPER_SIGMAS
    weights: tuple[float, ...] = PAPER_WEIGHTS
    solver: str = "squaring"
    solver_steps: int | None = None
    precision: str = "auto"

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
        """Give the scale of each vSVF step on images of part of the resolution.

        Fewer steps than ``step_scales`` are its last ones; more stay at the finest.
        """
        own = [part for part in self.step_scales if part <= scale] or [scale]
        return (*own[max(0, len(own) - steps) :], *[own[-1]] * (steps - len(own)))[:steps]

    def to_dict(self) -> dict[str, Any]:
        """Give the configuration as JSON has it: dictionaries, lists, numbers and strings."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> AVSMConfig:
        """Read what ``to_dict`` gives; absent keys take the paper's values.

        Raises
        ------
        UserError
            If a key is unknown.
        """
        parts = {"affine": AffineNetConfig, "momentum": MomentumNetConfig}
        inner = {name: build(kind, name, values.get(name, {})) for name, kind in parts.items()}
        return build(AVSMConfig, "model", {**values, **inner})
