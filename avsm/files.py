"""Files: written whole or not at all, told apart when replaced; CSVs read as users mean them."""

import codecs
import csv
import hashlib
import io
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from avsm.errors import UserError, nearest, raise_all

# In a header of MetaImage or NRRD: the file that its voxels lie in.
VOXELS = re.compile(
    rb"^(?:ElementDataFile *=|data ?file:)[ \t]*([^\0\r\n]{1,200}?)[ \t]*\r?$", re.M | re.I
)
HEAD_BYTES = 1 << 16
DELIMITERS = ",;\t"  # spreadsheets write what the country's settings say
WIDE = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)  # their "Unicode text"
Rows = dict[int, dict[str, str]]


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


def read_table(
    path: str | Path, named_by: str, required: Sequence[str] = ()
) -> tuple[list[str], Rows]:
    """Read a CSV in UTF-8 (or UTF-16 that says so), separated by commas, semicolons or tabs.

    Gives the columns, and the rows by the number of their (last) line: column -> value, without
    empty rows and space around values. ``named_by`` is the key or argument that names the file, for
    messages. A UserError says that it is no such text, that a ``required`` column is missing or one
    is twice, or that rows have more or fewer values than columns.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path.absolute()}: no such file; {named_by} must name a CSV")
    text = _text(path)
    first = next((line for line in text.splitlines() if line.strip(DELIMITERS + " ")), "")
    # What separates the names of columns comes most often in their line; a comma if none does.
    delimiter = max(DELIMITERS, key=re.sub('"[^"]*"', "", first).count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    found: dict[int, list[str]] = {}
    try:
        for row in reader:
            cells = [cell.strip() for cell in row]
            if any(cells):
                found[reader.line_num] = cells
    except csv.Error as error:
        raise UserError(
            f"{path}: line {reader.line_num}: cannot be read as CSV ({error}): is a quotation mark "
            "without its second, or inside a value that is not quoted?"
        ) from error
    if not found:
        raise UserError(f"{path}: empty; expected a line with the names of the columns first")
    columns = _unpadded(found.pop(next(iter(found))), 0)
    heading = f"{path}: found the columns {', '.join(columns)}:"
    faults = [
        f"column '{name}' {number} times, expected once"
        for name, number in Counter(columns).items()
        if name and number > 1
    ]
    faults += [f"no column '{n}'{nearest(n, columns)}" for n in required if n not in columns]
    raise_all(heading, faults)
    rows = {line: _unpadded(cells, len(columns)) for line, cells in found.items()}
    wrong = [
        f"line {line}: found {len(cells)} values, expected {len(columns)}, one a column (empty "
        f"ones between their '{delimiter}' too; quoted if they hold one)"
        for line, cells in rows.items()
        if len(cells) != len(columns)
    ]
    raise_all(heading, wrong)
    return columns, {line: dict(zip(columns, cells, strict=True)) for line, cells in rows.items()}


def _text(path: Path) -> str:
    """Read a file of text; a UserError says where it is none."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    try:
        text = data.decode("utf-16" if data.startswith(WIDE) else "utf-8-sig")
        bad = text.find("\0")
        line = text.count("\n", 0, bad) + 1
    except UnicodeDecodeError as error:
        bad, line = error.start, data.count(b"\n", 0, error.start) + 1
    if bad >= 0:
        raise UserError(
            f"{path}: line {line}: is no text in UTF-8, so letters and file names would be wrong; "
            "save it as CSV in UTF-8"
        )
    return text


def _unpadded(cells: list[str], least: int) -> list[str]:
    """Leave out the empty cells at the end that are more than ``least``."""
    count = max([least, *(n for n, cell in enumerate(cells, start=1) if cell)])
    return cells[:count]
