"""Reading of users' CSV files: as they mean them, or with a message that says how to mend them."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from avsm.errors import UserError, nearest, raise_all

DELIMITERS = ",;\t"  # spreadsheets write what the country's settings say
WIDE = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)  # their "Unicode text"
Rows = dict[int, dict[str, str]]


def read_table(
    path: str | Path, named_by: str, required: Sequence[str] = ()
) -> tuple[list[str], Rows]:
    """Read a CSV in UTF-8 (or UTF-16 that says so), separated by commas, semicolons or tabs.

    Rows without any value are left out, and space around values.

    Parameters
    ----------
    path
        The file.
    named_by
        The key or argument that names it, for messages.
    required
        Columns that it must have.

    Returns
    -------
    list of str
        The columns.
    dict
        The rows by the number of their (last) line: column -> value.

    Raises
    ------
    UserError
        If there is no such file, it is no such text, a column is missing or twice, or rows have
        more or fewer values than columns.
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
    _check_columns(path, columns, required)
    rows = {line: _unpadded(cells, len(columns)) for line, cells in found.items()}
    wrong = [
        f"line {line}: found {len(cells)} values, expected {len(columns)}, one a column (empty "
        f"ones between their '{delimiter}' too; quoted if they hold one)"
        for line, cells in rows.items()
        if len(cells) != len(columns)
    ]
    raise_all(f"{path}: found the columns {', '.join(columns)}:", wrong)
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


def _check_columns(path: Path, columns: Sequence[str], required: Sequence[str]) -> None:
    faults = [
        f"column '{name}' {number} times, expected once"
        for name, number in Counter(columns).items()
        if name and number > 1
    ]
    faults += [f"no column '{n}'{nearest(n, columns)}" for n in required if n not in columns]
    raise_all(f"{path}: found the columns {', '.join(columns)}:", faults)
