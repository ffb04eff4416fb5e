"""What an OAI release holds, by its tables and its folders: every sagittal DESS series.

A release has folders ``<visit>.<group>.<version>/<patient>/<date>/<series>``, such as
``0.C.2/9000798/20040924/10249506``, with one DICOM file a slice (001, 002, ...), and tables that
name the sequence of each folder: one a visit (``contents.0C2.csv``) or, in packages of the NIMH
Data Archive, one for all (``image03.txt``). Sources are in docs/reproducing.md.
"""

from __future__ import annotations

import csv
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from avsm.errors import UserError

# Releases are numbered by visit, as the variables V00, V01, ... of OAI's other tables are.
VISITS = {0: "00m", 1: "12m", 2: "18m", 3: "24m", 4: "30m", 5: "36m", 6: "48m", 8: "72m", 10: "96m"}
FOLDER = re.compile(r"((\d+)\.[A-Z]\.\d+)/(\d{7})/(\d{8})/(\d+)(?:\.tar\.gz|/)?$")
DESS = re.compile(r"SAG_3D_DESS_(LEFT|RIGHT)")
# Columns of the two kinds of table: folder, patient, sequence.
LAYOUTS = (
    ("Folder", "ParticipantID", "SeriesDescription"),
    ("image_file", "src_subject_id", "image_description"),
)
NEAR = ("", "*/", "*/*/")  # how deep tables and release folders are looked for


@dataclass(frozen=True)
class Listed:
    """One DESS series of a table."""

    subject: str
    visit: str
    date: str
    number: str
    side: str
    folder: Path

    @property
    def scan(self) -> tuple[str, str, str]:
        """Patient, visit and side: what a manifest tells scans apart by."""
        return self.subject, self.visit, self.side


@dataclass(frozen=True)
class Excluded:
    """A series, or a label map, that is left out, and why."""

    path: str
    reason: str
    subject: str = ""
    visit: str = ""
    side: str = ""


def read_releases(roots: Sequence[Path]) -> tuple[list[Listed], list[Excluded]]:
    """Return the DESS series of all releases, each once, and those whose row or folder is wrong.

    Raises
    ------
    UserError
        If a release is no folder, has no table, or its tables name no DESS series.
    """
    listed, excluded = {}, {}
    for root in roots:
        if not root.is_dir():
            raise UserError(f"{root}: no such folder; give the folder that holds an OAI release")
        homes = _release_folders(root)
        count = 0
        for table in _tables(root):
            for path, subject, side in _rows(table):
                count += 1
                found = _series(path, subject, side, homes)
                if isinstance(found, Excluded):
                    excluded.setdefault(path, found)
                else:
                    listed.setdefault(found.folder, found)
        if not count:
            raise UserError(
                f"{root}: no table in it or two folders below names a series SAG_3D_DESS_LEFT or "
                "_RIGHT; expected contents.<release>.csv or image03.txt, as they come with OAI's "
                "images: put them beside the release's folders"
            )
    return sorted(listed.values(), key=lambda s: (s.scan, s.number)), list(excluded.values())


def _tables(root: Path) -> list[Path]:
    names = ("[Cc]ontents*.csv", "image03.txt")
    return sorted(path for near in NEAR for name in names for path in root.glob(near + name))


def _release_folders(root: Path) -> dict[str, list[Path]]:
    """Return the folders named like 0.C.2, by name; the release may be one itself."""
    homes = defaultdict(list, {root.resolve().name: [root]})
    for near in NEAR:
        for path in root.glob(f"{near}*.[A-Z].*"):
            homes[path.name].append(path)
    return homes


def _rows(table: Path) -> Iterator[tuple[str, str, str]]:
    """Yield folder, patient and side of the DESS rows of a table."""
    with table.open(newline="", encoding="utf-8-sig", errors="replace") as stream:
        reader = csv.DictReader(stream, delimiter="\t" if table.suffix == ".txt" else ",")
        columns = reader.fieldnames or []
        layout = next((names for names in LAYOUTS if {*names} <= {*columns}), None)
        if layout is None:
            raise UserError(
                f"{table}: found the columns {', '.join(columns)}; expected "
                + " or ".join(", ".join(names) for names in LAYOUTS)
            )
        for row in reader:
            path, subject, sequence = ((row[name] or "").strip() for name in layout)
            dess = DESS.fullmatch(sequence)
            if dess:
                yield path, subject, dess[1].lower()


def _series(path: str, subject: str, side: str, homes: dict[str, list[Path]]) -> Listed | Excluded:
    """Find the folder that a row names. Only the parts of `FOLDER` are used of its path."""
    parts = FOLDER.search(path)
    if not parts:
        return Excluded(path, "its path is not <visit>.<x>/<patient>/<date>/<series>", subject)
    release, visit, patient, date, number = parts.groups()
    if int(visit) not in VISITS:
        return Excluded(path, f"visit {visit} is none of {[*VISITS]}", subject, "", side)
    months = VISITS[int(visit)]
    if subject != patient:
        return Excluded(path, f"the table says patient {subject}", patient, months, side)
    places = [home / patient / date for home in homes.get(release, [])]
    for place in places:
        if (place / number).is_dir():
            return Listed(patient, months, date, number, side, place / number)
    packed = any((place / f"{number}.tar.gz").exists() for place in places)
    reason = "packed: extract its .tar.gz" if packed else "no such folder in the release"
    return Excluded(path, reason, patient, months, side)
