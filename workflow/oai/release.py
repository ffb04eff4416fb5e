"""What an OAI release holds: every sagittal DESS series of its tables, and where its voxels lie.

Folders are ``<visit>.<group>.<version>/<patient>/<date>/<series>`` with a DICOM file a slice.
Tables name the sequence of each: one a visit (``contents.0C2.csv``) or, from the NIMH Data Archive,
one for all (``image03.txt``). Sources are in docs/reproducing.md.
"""

import csv
import json
import re
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from avsm.dicom import Grid, read_series
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
TABLES = ("[Cc]ontents*.csv", "image03.txt")
NEAR = ("", "*/", "*/*/")  # how deep tables and release folders are looked for
SECONDS_BETWEEN_LINES = 5


class Excluded(NamedTuple):
    """A series, or a label map, that is left out, and why."""

    path: str
    reason: str
    subject: str = ""
    visit: str = ""
    side: str = ""


class Listed(NamedTuple):
    """One DESS series of a table."""

    subject: str
    visit: str
    side: str
    date: str
    number: str
    folder: Path

    @property
    def scan(self) -> tuple[str, str, str]:
        """Patient, visit and side: what a manifest tells scans apart by."""
        return self[:3]

    def excluded(self, reason: str) -> Excluded:
        """Leave the series out."""
        return Excluded(str(self.folder), reason, *self.scan)


def read_releases(roots: Sequence[Path]) -> tuple[list[Listed], list[Excluded]]:
    """Return the DESS series of all releases, each once, and those whose row or folder is wrong.

    Raises `UserError` if a release is no folder, has no table, or its tables name no DESS series.
    """
    listed, excluded = {}, {}
    for root in roots:
        if not root.is_dir():
            raise UserError(f"{root}: no such folder; give the folder that holds an OAI release")
        homes = defaultdict(list, {root.resolve().name: [root]})  # the release may be one itself
        for near in NEAR:
            for path in root.glob(f"{near}*.[A-Z].*"):
                homes[path.name].append(path)
        tables = sorted(path for near in NEAR for name in TABLES for path in root.glob(near + name))
        rows = [row for table in tables for row in _rows(table)]
        if not rows:
            raise UserError(
                f"{root}: no table in it or two folders below names a series SAG_3D_DESS_LEFT or "
                "_RIGHT; expected contents.<release>.csv or image03.txt, as they come with OAI's "
                "images: put them beside the release's folders"
            )
        for path, subject, side in rows:
            found = _series(path, subject, side, homes)
            if isinstance(found, Excluded):
                excluded.setdefault(path, found)
            else:
                listed.setdefault(found.folder, found)
    return sorted(listed.values(), key=lambda s: (s.scan, s.number)), list(excluded.values())


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
            if dess := DESS.fullmatch(sequence):
                yield path, subject, dess[1].lower()


def _series(path: str, subject: str, side: str, homes: dict[str, list[Path]]) -> Listed | Excluded:
    """Find the folder that a row names. Only the parts of `FOLDER` are used of its path."""
    parts = FOLDER.search(path)
    if not parts:
        return Excluded(path, "its path is not <visit>.<x>/<patient>/<date>/<series>", subject)
    release, visit, patient, date, number = parts.groups()
    if int(visit) not in VISITS:
        return Excluded(path, f"visit {visit} is none of {[*VISITS]}", subject, "", side)
    scan = patient, VISITS[int(visit)], side
    if subject != patient:
        return Excluded(path, f"the table says patient {subject}", *scan)
    places = [home / patient / date for home in homes.get(release, [])]
    for place in places:
        if (place / number).is_dir():
            return Listed(*scan, date, number, place / number)
    packed = any((place / f"{number}.tar.gz").exists() for place in places)
    reason = "packed: extract its .tar.gz" if packed else "no such folder in the release"
    return Excluded(path, reason, *scan)


def read_grids(
    series: Sequence[Listed], expected: Sequence[int], progress: Path, threads: int
) -> tuple[dict[Listed, Grid], list[Excluded]]:
    """Return the grid of every sound series of the expected size, and the others with reasons.

    `expected` is left-right, front-back, bottom-top, in voxels. `progress` is a file of JSON lines
    to which each sound series is added as soon as it is read, so that a killed run goes on. Faulty
    ones are read again next time, as they may have been mended; so are folders that have changed.
    """
    known = _read_progress(progress)
    grids, excluded = {}, []
    with progress.open("a", encoding="utf-8") as stream, ThreadPoolExecutor(threads) as pool:
        stream.write("\n")  # ends a line that a kill cut short
        read = pool.map(lambda each: _grid(each, known, expected), series)
        for each, (grid, fault) in zip(series, _counted(read, len(series)), strict=True):
            if grid and _key(each) not in known:
                stream.write(json.dumps([*_key(each), grid]) + "\n")
                stream.flush()
            if fault:
                excluded.append(each.excluded(fault))
            else:
                grids[each] = grid
    return grids, excluded


def anatomical_size(grid: Grid) -> tuple[int, ...]:
    """Return voxels left-right, front-back and bottom-top, whatever the order of the axes."""
    along = np.abs(np.reshape(grid.direction, (3, 3))).argmax(axis=0)
    return tuple(int(grid.size[axis]) for axis in np.argsort(along))


def _key(series: Listed) -> tuple[str, int]:
    """Identify a folder in the state it is in: files that come or go change its time."""
    return str(series.folder.resolve()), series.folder.stat().st_mtime_ns


def _grid(
    series: Listed, known: dict[tuple[str, int], Grid], expected: Sequence[int]
) -> tuple[Grid | None, str]:
    """Return the grid of a series, if it has one, and what is wrong with it."""
    try:
        grid = known.get(_key(series)) or read_series(series.folder).grid
    except (UserError, OSError) as error:
        lines = str(error).removeprefix(f"{series.folder}: ").splitlines()
        return None, " ".join(line.strip() for line in lines)
    found, wanted = ("x".join(map(str, size)) for size in (anatomical_size(grid), expected))
    return grid, "" if found == wanted else f"found {found} voxels, expected {wanted}"


def _read_progress(path: Path) -> dict[tuple[str, int], Grid]:
    """Read what an earlier run left; a line that a kill cut short is left out."""
    known = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            folder, changed, grid = json.loads(line)
        except ValueError:
            continue
        known[folder, changed] = Grid(*map(tuple, grid))
    return known


def _counted(results: Iterable, total: int) -> Iterator:
    """Pass results on, and say on stderr now and then how many came and how long the rest takes."""
    start = told = time.monotonic()
    for count, result in enumerate(results, start=1):
        now = time.monotonic()
        if now - told > SECONDS_BETWEEN_LINES or count == total:
            left = (now - start) / count * (total - count)
            print(f"{count:,} of {total:,} series read, {left / 60:.0f} min left", file=sys.stderr)
            told = now
        yield result
