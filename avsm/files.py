"""Writing of files: aside first, then renamed, so that no half-written file has a result's name."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def written_aside(path: str | Path) -> Iterator[Path]:
    """Give a path to write to, which becomes ``path`` if the block ends well, else is removed."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The name keeps its ending: writers choose the format by it.
    aside = path.with_name(f".partial-{os.getpid()}-{path.name}")
    try:
        yield aside
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write a whole text file, or none."""
    with written_aside(path) as aside:
        aside.write_text(text, encoding="utf-8")


def write_rows(path: str | Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a whole CSV, or none; what a row lacks stays empty."""
    with written_aside(path) as aside, aside.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)
