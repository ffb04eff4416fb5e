"""Errors a user can act on: what is wrong, where, found, expected, what to do."""

import difflib
from collections.abc import Iterable, Sequence

SHOWN = 20  # of many faults in one message


class UserError(ValueError):
    """The input's fault, not the program's: the command line shows its message alone."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Give " (did you mean 'x'?)" for the known name nearest to ``name``, or an empty string."""
    match = difflib.get_close_matches(str(name), list(known), n=1, cutoff=0.5)
    return f" (did you mean '{match[0]}'?)" if match else ""


def choose(what: str, name: str, known: Iterable[str]) -> str:
    """Give ``name`` back if it is known; else raise with all names and the nearest."""
    names = list(known)
    if name not in names:
        raise UserError(
            f"{what}: expected one of {', '.join(names)}, found '{name}'{nearest(name, names)}"
        )
    return name


def raise_all(heading: str, faults: Sequence[str]) -> None:
    """Raise one error that lists all ``faults``, the first ``SHOWN`` in full; none, no error."""
    if faults:
        lines = [f"  - {fault}".replace("\n", "\n  ") for fault in faults[:SHOWN]]
        lines += [f"  … and {len(faults) - SHOWN} more"] if len(faults) > SHOWN else []
        raise UserError("\n".join([heading, *lines]))
