"""Files: written aside, then renamed, so that none is half a result; told apart when replaced."""

from __future__ import annotations

import csv
import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# In a header of MetaImage or NRRD: the file that its voxels lie in.
VOXELS = re.compile(
    rb"^(?:ElementDataFile *=|data ?file:)[ \t]*([^\0\r\n]{1,200}?)[ \t]*\r?$", re.M | re.I
)
HEAD_BYTES = 1 << 16


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


def stem_and_suffix(path: Path) -> tuple[str, str]:
    """Give a name without its suffix, and that without ``.gz``, in small letters."""
    stem, _, suffix = path.name.lower().removesuffix(".gz").rpartition(".")
    return stem, suffix


def files_of(path: str | Path) -> list[Path]:
    """Give the files of an image: itself and those that its voxels lie in, or a folder's."""
    path = Path(path)
    if path.is_dir():
        return sorted(Path(folder, file) for folder, _, files in os.walk(path) for file in files)
    stem, suffix = stem_and_suffix(path)
    found = {path}
    if suffix in ("hdr", "img"):
        pair = [(stem, "hdr"), (stem, "img")]
        found |= {file for file in path.parent.iterdir() if stem_and_suffix(file) in pair}
    elif suffix in ("mha", "mhd", "nrrd", "nhdr"):
        with path.open("rb") as stream:
            named = (path.parent / os.fsdecode(n) for n in VOXELS.findall(stream.read(HEAD_BYTES)))
            found |= {file for file in named if file.is_file()}
    return sorted(found)


def stamp(path: str | Path) -> str:
    """Give what changes when an image's file is replaced, be it by an older one, unread."""
    found = [(str(file), file.stat()) for file in files_of(path)]
    marks = [(name, status.st_size, status.st_mtime_ns) for name, status in found]
    return hashlib.sha256(repr(marks).encode()).hexdigest()


def file_digest(path: str | Path) -> str:
    """Give the SHA-256 of a file."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
