"""From a release to a manifest: which scans count, and who is trained, validated and tested on."""

from __future__ import annotations

import csv
import io
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from avsm.dicom import Grid
from avsm.errors import UserError
from avsm.files import write_text
from workflow.data.cohort import COLUMNS
from workflow.data.oai.index import read_grids
from workflow.data.oai.labels import label_files, match_labels, patient_of
from workflow.data.oai.release import Excluded, Listed, read_releases
from workflow.data.scan import Scan
from workflow.data.splits import SPLITS, assign_splits

VALIDATION = 0.3  # of the unlabelled patients; the rest is for training (paper, section 3: 7:3)


@dataclass(frozen=True)
class Request:
    """What the command line asks for; see its help."""

    releases: list[Path]
    labels: Path
    validation_labels: Path | None
    out: Path
    visits: list[str] | None
    expect: tuple[int, ...]
    seed: int
    threads: int


def index_release(request: Request) -> str:
    """Write manifest and exclusions of a request, and return a summary for the terminal.

    Raises
    ------
    UserError
        If there is no release or label map where one is expected, or nothing to test on is left.
    """
    files = label_files(request.labels)
    labelled = {patient_of(path, request.labels) for path in files}
    listed, excluded = read_releases(request.releases)
    listed, missed = _of_visits(listed, request.visits, labelled)
    request.out.parent.mkdir(parents=True, exist_ok=True)
    progress = request.out.with_name(f"{request.out.name}.progress")
    grids, faulty = read_grids(listed, request.expect, progress, request.threads)
    posed = request.out.with_name(f"{request.out.stem}.labels")
    maps, unfit = match_labels(files, request.labels, grids, posed)
    scans, spare = _tested(grids, maps, labelled)
    if not scans:
        raise UserError(
            f"{request.labels}: none of its {len(files)} label maps lies on a sound series of the "
            f"release; the first: {unfit[0].path}: {unfit[0].reason}"
        )
    others, twice = _unlabelled(grids, labelled, request.seed)
    excluded += [*missed, *faulty, *unfit, *spare, *twice]
    if request.validation_labels:
        others, unfit = _with_labels(others, grids, request.validation_labels, posed)
        excluded += unfit
    _write(request.out, COLUMNS, [*scans.values(), *others.values()])
    listing = request.out.with_name(f"{request.out.stem}.excluded.csv")
    _write(listing, tuple(Excluded.__dataclass_fields__), excluded)
    return _summary(request.out, [*scans.values(), *others.values()], listing, len(excluded))


def _of_visits(
    listed: Sequence[Listed], visits: Sequence[str] | None, labelled: set[str]
) -> tuple[list[Listed], list[Excluded]]:
    """Choose the series of some visits and, of unlabelled patients, the knees that have them all.

    The paper's 22,950 images are those of the knees that were scanned at six visits.
    """
    if not visits:
        return list(listed), []
    seen = defaultdict(set)
    for series in listed:
        seen[series.subject, series.side].add(series.visit)
    chosen, excluded = [], []
    for series in listed:
        lacking = sorted({*visits} - seen[series.subject, series.side])
        if series.visit not in visits:
            reason = f"visit {series.visit} is not asked for"
        elif lacking and series.subject not in labelled:
            reason = f"this knee was not scanned at {', '.join(lacking)}"
        else:
            chosen.append(series)
            continue
        excluded.append(Excluded(str(series.folder), reason, *series.scan))
    return chosen, excluded


def _tested(
    grids: dict[Listed, Grid], maps: dict[Listed, Path], labelled: set[str]
) -> tuple[dict[Listed, Scan], list[Excluded]]:
    """Return the scans to test on; no other scan of a labelled patient is used for anything."""
    chosen, twice = _once([series for series in grids if series in maps])
    scans = {series: _scan(series, "test", maps[series]) for series in chosen}
    spare = [
        Excluded(str(s.folder), "its patient is tested on, and it has no label map", *s.scan)
        for s in grids
        if s.subject in labelled and s not in maps
    ]
    return scans, spare + twice


def _unlabelled(
    grids: dict[Listed, Grid], labelled: set[str], seed: int
) -> tuple[dict[Listed, Scan], list[Excluded]]:
    """Deal the patients without label maps into training and validation.

    Validation label maps play no part, so the split stays when they are added.
    """
    chosen, twice = _once([series for series in grids if series.subject not in labelled])
    scans = {series: _scan(series) for series in chosen}
    parts = {"test": 0.0, "validation": VALIDATION}
    splits = assign_splits([*scans.values()], parts, seed)
    dealt = {series: replace(scan, split=splits[scan.subject]) for series, scan in scans.items()}
    return dealt, twice


def _once(series: Iterable[Listed]) -> tuple[list[Listed], list[Excluded]]:
    """Keep one series a patient, visit and side: the last, as a scan is repeated for a reason."""
    last = {each.scan: each for each in sorted(series, key=lambda s: (s.date, s.number))}
    twice = [
        Excluded(str(each.folder), f"scanned again: {last[each.scan].folder} is used", *each.scan)
        for each in series
        if last[each.scan] is not each
    ]
    return sorted(last.values(), key=lambda s: s.scan), twice


def _with_labels(
    scans: dict[Listed, Scan], grids: dict[Listed, Grid], folder: Path, posed: Path
) -> tuple[dict[Listed, Scan], list[Excluded]]:
    """Give validation scans their label maps; those of other patients are not used."""
    usable = {series: grids[series] for series, scan in scans.items() if scan.split == "validation"}
    patients = {series.subject for series in usable}
    files = [path for path in label_files(folder) if patient_of(path, folder) in patients]
    maps, unfit = match_labels(files, folder, usable, posed)
    labelled = {series: replace(scans[series], label=str(path)) for series, path in maps.items()}
    return scans | labelled, unfit


def _scan(series: Listed, split: str = "", label: Path | None = None) -> Scan:
    image, label = (str(path) if path else None for path in (series.folder, label))
    return Scan(*series.scan, image, label, split)


def _write(path: Path, columns: Sequence[str], rows: Iterable[Scan | Excluded]) -> None:
    """Write a CSV at once; files of the manifest are absolute, so that it can be moved."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, columns, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        values = asdict(row)
        for key in ("image", "label"):
            if values.get(key):
                values[key] = str(Path(values[key]).resolve())
        writer.writerow(values)
    write_text(path, stream.getvalue())


def _summary(out: Path, scans: Sequence[Scan], listing: Path, excluded: int) -> str:
    """Say how many scans and patients each split has."""
    lines = []
    for split in SPLITS:
        own = [scan for scan in scans if scan.split == split]
        counts = Counter(bool(scan.label) for scan in own)
        patients = len({scan.subject for scan in own})
        lines.append(
            f"{split}: {len(own):,} scans of {patients:,} patients, {counts[True]:,} with label map"
        )
    return "\n".join([*lines, f"{out}: written; {excluded:,} left out, see {listing}"])
