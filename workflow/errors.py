"""Errors a user can act on: what is wrong, where, found, expected, what to do."""

from __future__ import annotations

from avsm.errors import UserError, nearest  # noqa: F401  (found here by the benchmark)


class BenchmarkError(UserError):
    """Base of all errors that are the input's fault, not the program's."""


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
    if not faults:
        return
    lines = [f"  - {fault}" for fault in faults[:shown]]
    if len(faults) > shown:
        lines.append(f"  … and {len(faults) - shown} more")
    raise kind("\n".join([heading, *lines]))
