"""Errors a user can act on: what is wrong, where, found, expected, what to do."""

from __future__ import annotations

from avsm import errors
from avsm.errors import UserError, nearest

__all__ = ["ConfigError", "ContractError", "DataError", "ToolError", "UserError", "nearest"]


class ConfigError(UserError):
    """The configuration, or a method's description, is wrong."""


class DataError(UserError):
    """An image, label map, manifest or pair list is wrong."""


class ContractError(UserError):
    """A method broke the contract of `docs/contract.md`."""


class ToolError(UserError):
    """An external program is missing or cannot run."""


def raise_all(kind: type[UserError], heading: str, faults: list[str], shown: int = 20) -> None:
    """Raise one `kind` that lists all `faults`, see `avsm.errors.raise_all`."""
    errors.raise_all(heading, faults, shown, kind)
