"""python -m workflow.oai: index a release of the Osteoarthritis Initiative as a manifest."""

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from avsm.errors import UserError
from avsm.files import write_text
from workflow.data.scans import SPLITS, Scan, assign_splits
from workflow.oai.labels import label_files, match_labels, patient_of
from workflow.oai.release import VISITS, Excluded, Listed, read_grids, read_releases

VALIDATION = 0.3  # of the unlabelled patients; the rest is for training (paper, section 3: 7:3)
DESCRIPTION = """\
Index an OAI release: write a manifest of its sagittal DESS scans for this benchmark.

A release is a folder with image folders <visit>.<x>/<patient>/<date>/<series> and the tables
contents.<x>.csv or image03.txt that came with them. Only headers are read. Patients with label maps
are tested on, all others are dealt into training and validation. What is left out, and why, is
listed in <out>.excluded.csv. A run that was stopped goes on when the command is given again."""
EXAMPLE = """\
example, the cohort of the AVSM paper:
  python -m workflow.oai /data/OAI --labels /data/iMorphics --out oai.csv \\
    --visits 00m 12m 24m 36m 48m 72m --validation-labels /data/automatic"""


def parse(arguments: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m workflow.oai",
        description=DESCRIPTION,
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("releases", nargs="+", type=Path, metavar="RELEASE", help="folder of an OAI release")
    add("--labels", type=Path, required=True, metavar="FOLDER",
        help="label maps of the patients to test on; the patient's number is in each name",
    )  # fmt: skip
    add("--validation-labels", type=Path, metavar="FOLDER",
        help="label maps of other patients, automatic ones say: those of validation patients "
        "choose the weights of networks, the rest is not used")  # fmt: skip
    add("--out", type=Path, required=True, metavar="CSV", help="the manifest to write")
    add("--visits", nargs="+", choices=[*VISITS.values()], metavar="VISIT",
        help="scans of these visits only and, of patients without label maps, only knees that were "
        f"scanned at all of them (default: all; known: {' '.join(VISITS.values())})")  # fmt: skip
    add("--expect", type=_size, default=(160, 384, 384), metavar="SIZE",
        help="voxels left-right x front-back x bottom-top; others are excluded "
        "(default: 160x384x384)")  # fmt: skip
    add("--seed", type=int, default=2019, help="of training and validation (default: 2019)")
    add("--threads", type=int, default=4, help="that read headers (default: 4)")
    return parser.parse_args(arguments)


def _size(text: str) -> tuple[int, ...]:
    """Read a size such as 160x384x384."""
    parts = text.split("x")
    if len(parts) != 3 or not all(part.isdecimal() and int(part) for part in parts):
        raise argparse.ArgumentTypeError(f"found '{text}', expected a size such as 160x384x384")
    return tuple(map(int, parts))


def index_release(request: argparse.Namespace) -> str:
    """Write manifest and exclusions of a request, and return a summary for the terminal.

    Patients with label maps are tested on, and no other scan of theirs is used for anything. The
    others are dealt into training and validation; validation label maps play no part in that, so
    the split stays when they are added. Raises `UserError` if there is no release or label map
    where one is expected, or nothing to test on is left.
    """
    out = request.out
    files = label_files(request.labels)
    labelled = {patient_of(path, request.labels) for path in files}
    listed, excluded = read_releases(request.releases)
    listed, missed = _of_visits(listed, request.visits, labelled)
    out.parent.mkdir(parents=True, exist_ok=True)
    progress, posed = out.with_name(f"{out.name}.progress"), out.with_name(f"{out.stem}.labels")
    grids, faulty = read_grids(listed, request.expect, progress, request.threads)
    maps, unfit = match_labels(files, request.labels, grids, posed)
    tested, twice = _once(series for series in grids if series in maps)
    if not tested:
        raise UserError(
            f"{request.labels}: none of its {len(files)} label maps lies on a sound series of the "
            f"release; the first: {unfit[0].path}: {unfit[0].reason}"
        )
    others, again = _once(series for series in grids if series.subject not in labelled)
    spare = [
        series.excluded("its patient is tested on, and it has no label map")
        for series in grids
        if series.subject in labelled and series not in maps
    ]
    excluded += [*missed, *faulty, *unfit, *spare, *twice, *again]
    dealt = [Scan(*series.scan, image=None, label=None) for series in others]
    splits = assign_splits(dealt, {"test": 0.0, "validation": VALIDATION}, request.seed)
    if folder := request.validation_labels:
        usable = {s: grids[s] for s in others if splits[s.subject] == "validation"}
        patients = {series.subject for series in usable}
        files = [path for path in label_files(folder) if patient_of(path, folder) in patients]
        more, unfit = match_labels(files, folder, usable, posed)
        maps |= more
        excluded += unfit
    # Files of the manifest are absolute, so that it can be moved.
    scans = [
        Scan(
            *series.scan,
            image=str(series.folder.resolve()),
            label=str(maps[series].resolve()) if series in maps else None,
            split=splits.get(series.subject, "test"),
        )
        for series in (*tested, *others)
    ]
    listing = out.with_name(f"{out.stem}.excluded.csv")
    write_text(out, pd.DataFrame(scans).to_csv(index=False))
    write_text(listing, pd.DataFrame(excluded, columns=Excluded._fields).to_csv(index=False))
    summary = [_summary(split, [scan for scan in scans if scan.split == split]) for split in SPLITS]
    return "\n".join([*summary, f"{out}: written; {len(excluded):,} left out, see {listing}"])


def _summary(split: str, scans: Sequence[Scan]) -> str:
    patients = len({scan.subject for scan in scans})
    labelled = sum(bool(scan.label) for scan in scans)
    return f"{split}: {len(scans):,} scans of {patients:,} patients, {labelled:,} with label map"


def _of_visits(
    listed: Sequence[Listed], visits: Sequence[str] | None, labelled: set[str]
) -> tuple[list[Listed], list[Excluded]]:
    """Choose the series of some visits and, of unlabelled patients, the knees with them all."""
    seen = defaultdict(set)
    for series in listed:
        seen[series.subject, series.side].add(series.visit)
    chosen, excluded = [], []
    for series in listed:
        lacking = sorted({*(visits or ())} - seen[series.subject, series.side])
        if visits and series.visit not in visits:
            excluded.append(series.excluded(f"visit {series.visit} is not asked for"))
        elif lacking and series.subject not in labelled:
            reason = f"this knee was not scanned at {', '.join(lacking)}"
            excluded.append(series.excluded(reason))
        else:
            chosen.append(series)
    return chosen, excluded


def _once(series: Iterable[Listed]) -> tuple[list[Listed], list[Excluded]]:
    """Keep one series a patient, visit and side: the last, as a scan is repeated for a reason."""
    ordered = sorted(series, key=lambda each: (each.scan, each.date, each.number))
    last = {each.scan: each for each in ordered}
    twice = [
        each.excluded(f"scanned again: {last[each.scan].folder} is used")
        for each in ordered
        if last[each.scan] is not each
    ]
    return list(last.values()), twice


def main() -> int:
    """Run the command; 0 after success."""
    request = parse(sys.argv[1:])
    try:
        print(index_release(request))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
