"""The configuration of a model: named presets, and to and from plain values for checkpoints."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from avsm.affine_net import AffineNetConfig, Stage
from avsm.checks import check_choice
from avsm.momentum import MomentumNetConfig
from avsm.smoothing import PAPER_SIGMAS, PAPER_WEIGHTS

Config = TypeVar("Config")


@dataclass(frozen=True)
class AVSMConfig:
    """Everything that shapes the model; ``AVSMConfig.preset`` gives named ones.

    Attributes
    ----------
    affine, momentum
        Sizes of the two networks.
    affine_steps, steps
        Affine and vSVF steps of a registration, unless a call asks otherwise.
    sigmas, weights
        The smoothing operator K, widths in the unit cube.
    solver
        ``squaring`` or ``rk4``.
    solver_steps
        Squarings or Runge-Kutta steps; None takes the solver's default.
    """

    affine: AffineNetConfig = field(default_factory=AffineNetConfig)
    momentum: MomentumNetConfig = field(default_factory=MomentumNetConfig)
    affine_steps: int = 7
    steps: int = 3
    sigmas: tuple[float, ...] = PAPER_SIGMAS
    weights: tuple[float, ...] = PAPER_WEIGHTS
    solver: str = "squaring"
    solver_steps: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Give the configuration as JSON has it: dictionaries, lists, numbers and strings."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> AVSMConfig:
        """Read what ``to_dict`` gives; absent keys take the paper's values.

        Raises
        ------
        ValueError
            If a key is unknown.
        """
        values = dict(values)
        affine = dict(values.pop("affine", {}))
        if "trunk" in affine:
            affine["trunk"] = tuple(Stage(*stage) for stage in affine["trunk"])
        return _build(
            cls,
            "",
            values,
            affine=_build(AffineNetConfig, "affine.", affine),
            momentum=_build(MomentumNetConfig, "momentum.", values.pop("momentum", {})),
        )

    @staticmethod
    def preset(name: str) -> AVSMConfig:
        """Give a preset: ``paper``, the paper's networks, or ``small``, for a processor."""
        check_choice("preset", name, tuple(PRESETS))
        return PRESETS[name]


SMALL_AFFINE = AffineNetConfig(
    features=8,
    trunk=(Stage(16, pool=True), Stage(32, stride=2), Stage(32), Stage(32)),
    reduction=2,
    keypoints=32,
)
PRESETS = {
    "paper": AVSMConfig(),
    "small": AVSMConfig(
        affine=SMALL_AFFINE, momentum=MomentumNetConfig(width=8, first_level=False, white=True)
    ),
}


def _build(kind: type[Config], path: str, values: Mapping[str, Any], **parts: Any) -> Config:
    """Make a configuration of plain values; lists become tuples."""
    known = [item.name for item in dataclasses.fields(kind)]
    unknown = sorted(f"{path}{key}" for key in values if key not in known)
    if unknown:
        raise ValueError(
            f"configuration: unknown {', '.join(unknown)}; known are "
            f"{', '.join(path + name for name in known)}"
        )
    plain = {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
    return kind(**plain, **parts)
