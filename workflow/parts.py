"""Cohorts in parts: Snakemake plans a job of n input files in the order of n^2 steps."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

MOST = 100  # names in a part, about


def in_parts(names: Sequence[str]) -> list[list[str]]:
    """Deal names into parts, in their order within each; a name more or less changes one part.

    Only when their number passes a multiple of `MOST` all are dealt anew.
    """
    number = 1 + len(names) // MOST
    parts: list[list[str]] = [[] for _ in range(number)]
    for name in names:
        parts[zlib.crc32(name.encode()) % number].append(name)
    return [part for part in parts if part]
