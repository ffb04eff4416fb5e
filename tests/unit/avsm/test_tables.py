"""Users' CSVs: whatever a spreadsheet writes is read as pandas reads it, or refused by its line."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from avsm.errors import UserError
from avsm.files import read_table

TEXT = "subject,image,split\nÄ,a.nii,train\n007,b.nii,NA\n"
QUOTED = TEXT.replace("a.nii", '"a, 1;2.nii"')


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_what_spreadsheets_write_is_read(
    tmp_path: Path, encoding: str, end: str, delimiter: str
) -> None:
    text = TEXT.replace(",", delimiter).replace("\n", end)
    path = tmp_path / "scans.csv"
    path.write_bytes(text.encode(encoding))
    columns, rows = read_table(path, "MANIFEST", ("subject",))
    options = {"dtype": str, "keep_default_na": False}
    expected = pd.read_csv(path, sep=delimiter, encoding=encoding, **options)
    assert columns == list(expected.columns)
    assert list(rows.values()) == expected.to_dict("records")
    assert list(rows) == [2, 3]


@pytest.mark.parametrize(
    "text",
    [
        TEXT + ",,\n , ,\n\n",  # rows that a spreadsheet holds to be used
        "\n" + TEXT.replace("\n", "\n\n"),
        TEXT.replace("\n", ",,,\n"),
        TEXT.replace("train\n", "train,,\n"),
        TEXT.replace(",", " ,  "),
        TEXT.replace("a.nii", '"a.nii"'),
    ],
)
def test_empty_rows_cells_and_spaces_mean_nothing(tmp_path: Path, text: str) -> None:
    paths = tmp_path / "plain.csv", tmp_path / "odd.csv"
    for path, content in zip(paths, (TEXT, text), strict=True):
        path.write_text(content, encoding="utf-8")
    (columns, plain), (found, odd) = (read_table(path, "MANIFEST") for path in paths)
    assert found == columns and list(odd.values()) == list(plain.values())


def test_a_separator_in_a_quoted_name_does_not_separate(tmp_path: Path) -> None:
    path = tmp_path / "scans.csv"
    path.write_text('subject;"age, sex, site, scanner";split\nA;1;train\n', encoding="utf-8")
    assert read_table(path, "MANIFEST", ("split",))[1][2]["split"] == "train"


def test_quoted_separators_belong_to_the_value(tmp_path: Path) -> None:
    path = tmp_path / "scans.csv"
    path.write_text(QUOTED, encoding="utf-8")
    assert read_table(path, "MANIFEST")[1][2]["image"] == "a, 1;2.nii"


WRONG = {
    "Latin-1": (TEXT.encode("latin-1"), "line 2: is no text in UTF-8"),
    "UTF-16 that does not say so": (TEXT.encode("utf-16")[2:], "is no text in UTF-8"),
    "UTF-32": (TEXT.encode("utf-32"), "line 1: is no text in UTF-8"),
    "a zero": (TEXT.encode().replace(b"b.nii", b"b\0.nii"), "line 3: is no text in UTF-8"),
    "an image": (b"\x1f\x8b\x08\0\0", "line 1: is no text in UTF-8"),
    "nothing": (b"", "empty; expected a line with the names of the columns"),
    "commas alone": (b",,,\n\n", "empty; expected a line with the names of the columns"),
    "a column twice": (TEXT.replace("split", "image"), "column 'image' 2 times, expected once"),
    "a slip": (TEXT.replace("subject", "subjct"), r"no column 'subject' \(did you mean 'subjct'"),
    "a comma": (TEXT.replace("a.nii", "a,1.nii"), "line 2: found 4 values, expected 3"),
    "too few": (TEXT.replace(",train", ""), "line 2: found 2 values, expected 3"),
    "one mark": (TEXT.replace("a.nii", '"a.nii'), "line 3: cannot be read as CSV .*quotation mark"),
    "a mark inside": (TEXT.replace("a.nii", '"a" 1.nii'), "line 2: cannot be read .*quotation"),
    "a long line": ("x" * 200_000 + "\n" + TEXT, "line 1: cannot be read .*131072"),
    "a long cell": (TEXT.replace("a.nii", "x" * 200_000), "line 2: cannot be read .*131072"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_would_be_misread_is_refused_by_its_line(tmp_path: Path, case: str) -> None:
    content, message = WRONG[case]
    path = tmp_path / "scans.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=f"(?s){path}: .*{message}"):
        read_table(path, "MANIFEST", ("subject",))


def test_a_missing_file_is_named_with_what_names_it(tmp_path: Path) -> None:
    for path in (tmp_path / "none.csv", tmp_path):
        with pytest.raises(UserError, match=f"{path}: no such file; --pairs must name a CSV"):
            read_table(path, "--pairs")
