"""Settings and plain values: what a file or command line says, checked by name and kind."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from avsm.errors import UserError, nearest

Settings = TypeVar("Settings")
MAY_BE_NONE = ("max_minutes", "clip", "solver_steps")
WHOLE = ("solver_steps",)


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Give nested settings by dotted names."""
    result: dict[str, Any] = {}
    for key, value in values.items():
        nested = isinstance(value, dict)
        result |= flat(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value}
    return result


def build(kind: type[Settings], where: str, values: Mapping[str, Any]) -> Settings:
    """Make settings of plain values, lists as tuples; UserError: an unknown key or a wrong kind."""
    defaults = {item.name: item.default for item in dataclasses.fields(kind)}
    for key in values:
        if key not in defaults:
            raise UserError(f"{where}: no setting '{key}'{nearest(key, defaults)}")
    for key, value in values.items():
        default = defaults[key]
        plain = default[0] if isinstance(default, tuple) else default
        if isinstance(plain, bool | int | float | str):
            both = (list(v) if isinstance(v, tuple) else v for v in (default, value))
            check_kind(f"{where}.{key}", *both)
    return kind(**{key: tuple(v) if isinstance(v, list) else v for key, v in values.items()})


def rise_to_one(parts: Sequence[float]) -> bool:
    """Tell whether parts of a whole are positive, rise, and end with the whole."""
    return bool(parts) and list(parts) == sorted(parts) and parts[0] > 0 and parts[-1] == 1


def check_kind(name: str, before: Any, value: Any) -> None:
    """Raise UserError unless a value is of the kind that it replaces."""
    if name.split(".")[-1] in MAY_BE_NONE:
        whole = name.endswith(WHOLE)
        kinds = (int, type(None)) if whole else (int, float, type(None))
        expected = "a whole number or null" if whole else "a number or null"
    else:
        kinds, expected = {
            bool: (bool, "true or false"),
            int: (int, "a whole number"),
            float: ((int, float), "a number"),
            str: (str, "a word"),
            list: (list, "a list"),
            dict: (dict, "names with values"),
        }[type(before)]
    wrong = isinstance(value, bool) and kinds is not bool
    wrong |= isinstance(value, float) and not math.isfinite(value)
    if wrong or not isinstance(value, kinds):
        raise UserError(f"{name}: expected {expected}, found {value!r}")
    if isinstance(value, list) and before:
        for number, item in enumerate(value, start=1):
            check_kind(f"{name}, entry {number}", before[0], item)
