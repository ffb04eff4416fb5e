"""Errors a user can act on: what is wrong, where, found, expected, what to do."""

from __future__ import annotations

from avsm import errors
from avsm.errors import UserError, nearest

__all__ = ["BenchmarkError", "ConfigError", "ContractError", "DataError", "ToolError", "nearest"]
BenchmarkError = UserError  # the base of all errors that are the input's fault, not the program's


class ConfigError(BenchmarkError):
    """The configuration, or a method's description, is wrong."""


class DataError(BenchmarkError):
    """An image, label map, manifest or pair list is wrong."""


class ContractError(BenchmarkError):
    """A method broke the contract of `docs/contract.md`."""


class ToolError(BenchmarkError):
    """An external program is missing or cannot run."""


def raise_all(kind: type[BenchmarkError], heading: str, faults: list[str], shown: int = 20) -> None:
    """Raise one `kind` that lists all `faults` (the first `shown` in full); none, no error."""
    errors.raise_all(heading, faults, shown, kind)
