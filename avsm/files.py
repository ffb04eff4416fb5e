"""Files: which an image consists of; and written aside first, then renamed, whole or not at all."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Their voxels lie in another file, beside them or named in them.
HEADERS = (".hdr", ".img", ".mhd", ".nhdr")
HEAD_BYTES = 1 << 16
NAMED = re.compile(rb"^(?:ElementDataFile\s*=|data ?file:)[ \t]*([^\r\n]+?)\s*$", re.I | re.M)


def files_of(path: str | Path) -> list[Path]:
    """Return the files of an image: itself, those beside a header or named there, a folder's."""
    path = Path(path)
    if path.is_dir():
        return sorted(Path(folder, file) for folder, _, files in os.walk(path) for file in files)
    if not path.name.lower().removesuffix(".gz").endswith(HEADERS):
        return [path]
    with path.open("rb") as stream:
        named = [path.parent / os.fsdecode(name) for name in NAMED.findall(stream.read(HEAD_BYTES))]
    beside = [file for file in path.parent.iterdir() if _stem(file) == _stem(path)]
    return sorted({file for file in [*beside, *named] if file.is_file()})


def _stem(path: Path) -> str:
    return path.name.lower().removesuffix(".gz").rpartition(".")[0]


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
