"""Reading of users' CSV files: columns, rows with their lines, a clear error if it is no text."""

from __future__ import annotations

import csv
from pathlib import Path

from workflow.errors import DataError


def read_rows(path: str | Path, named_by: str) -> tuple[list[str], dict[int, dict[str, str]]]:
    """Return the columns of a CSV, and its rows by line; values without space around them.

    Parameters
    ----------
    named_by : the key of the configuration that names the file, for messages.

    Raises
    ------
    DataError
        If there is no such file, it is no text in UTF-8, or it is empty.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path.absolute()}: no such file; {named_by} must name a CSV")
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            columns = list(reader.fieldnames or [])
            rows = [(reader.line_num, row) for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"{path}: cannot be read as CSV ({error}); save it as comma-separated text in UTF-8"
        ) from error
    if not columns:
        raise DataError(f"{path}: empty; expected a line with the names of the columns first")
    return columns, {
        line: {column: (row[column] or "").strip() for column in columns} for line, row in rows
    }
