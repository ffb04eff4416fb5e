"""A cohort is a list of scans: from the phantom, a manifest or a Decathlon task folder."""

import difflib
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from avsm.errors import UserError, nearest, raise_all
from avsm.files import read_table
from avsm.manifest import same_files
from workflow.data.scans import PHANTOM_VISITS, SPLITS, Scan, assign_splits

COLUMNS = ("subject", "visit", "side", "image", "label", "split")
SIDES = ("left", "right", "")
SLIP = 0.8  # likeness from which a column's name is taken for a mistyped one
# Scan names become file names and the halves of pair names `<fixed>__<moving>`.
LONGEST = 100
NAME = re.compile(r"[A-Za-z0-9.-]+(_[A-Za-z0-9.-]+)*")


def load_cohort(config: dict[str, Any], listed_test: set[str] = frozenset()) -> dict[str, Scan]:
    """Return all scans by name, with their splits and whether they are mirrored.

    `listed_test` names scans that an explicit pair list puts into the test set. Raises one
    `UserError` that lists all faults of the manifest or folder.
    """
    sources = {"phantom": _phantom, "manifest": _manifest, "decathlon": _decathlon}
    scans = sources[config["cohort"]["source"]](config)
    _check_files(scans, config["cohort"]["path"])
    subjects = {scan.subject for scan in scans if scan.name in listed_test}
    splits = assign_splits(scans, config["split"], config["seed"], subjects)
    mirrored = {"left"} if config["preprocessing"]["mirror_left"] else {}
    return {
        scan.name: replace(scan, split=splits[scan.subject], mirrored=scan.side in mirrored)
        for scan in scans
    }


def _phantom(config: dict[str, Any]) -> list[Scan]:
    """Return the embedded cohort; its label maps are made by a rule of the workflow."""
    scans = [
        Scan(f"P{number:03d}", visit, ("right", "left")[number % 2], None, None)
        for number in range(config["phantom"]["subjects"])
        for visit in PHANTOM_VISITS
    ]
    folder = f"results/{config['run']}/raw/labels"
    return [replace(scan, label=f"{folder}/{scan.name}.nii.gz") for scan in scans]


def _manifest(config: dict[str, Any]) -> list[Scan]:
    """Read a cohort's CSV; relative paths in it are relative to its folder."""
    path = Path(config["cohort"]["path"])
    names = {column: config["cohort"]["columns"].get(column, column) for column in COLUMNS}
    simulate = config["cohort"]["simulate"]
    rows = _read_csv(path, names, simulate)
    faults, scans, lines = [], [], {}
    for line, row in rows.items():
        for key in ("image", "label"):
            row[key] = str(path.parent / row[key]) if row[key] else None
        scan = Scan(**row | {"side": row["side"].lower()})
        wrong = _row_faults(scan, simulate)
        # Not all file systems tell capitals from small letters.
        first = lines.setdefault(scan.name.lower(), line)
        if first != line:
            wrong.append(f"scan {scan.name} again, first in line {first}")
        faults += [f"line {line}: {fault}" for fault in wrong]
        scans.append(scan)
    if not rows:
        faults.append("no rows")
    raise_all(f"{path}: the manifest has faults:", faults)
    return scans


def _read_csv(path: Path, names: dict[str, str], simulate: bool) -> dict[int, dict[str, str]]:
    """Return the rows of a CSV by line under our column names; absent optional columns give ""."""
    found, rows = read_table(path, "cohort.path")
    renamed = [theirs for ours, theirs in names.items() if ours != theirs]
    needed = "label" if simulate and names["image"] not in found else "image"
    missing = dict.fromkeys([names["subject"], names[needed], *renamed])
    faults = [f"no column '{name}'{nearest(name, found)}" for name in missing if name not in found]
    other = [column for column in found if column not in names.values()]
    if faults and other:
        faults.append(f"columns of no meaning: {', '.join(other)}; cohort.columns gives them one")
    if needed == "image" and names["image"] not in found:
        faults.append("if the scans have no images, cohort.simulate: true simulates those of knees")
    # Columns of other names are the user's own, but one that is nearly ours is a slip.
    absent = {name.lower(): name for name in names.values() if name not in [*found, *missing]}
    for column in other:
        for slip in difflib.get_close_matches(column.lower(), absent, n=1, cutoff=SLIP):
            faults.append(f"column '{column}': did you mean '{absent[slip]}'?")
    raise_all(f"{path}: found the columns {', '.join(found)}:", faults)
    return {
        line: {ours: row.get(theirs, "") for ours, theirs in names.items()}
        for line, row in rows.items()
    }


def _row_faults(scan: Scan, simulate: bool) -> list[str]:
    """Return what is wrong with one scan by itself."""
    faults = []
    for key in ("subject", "visit"):
        value = getattr(scan, key)
        if (value or key == "subject") and not NAME.fullmatch(value):
            faults.append(f"{key} '{value}': expected letters, digits, '.', '-' and single '_'")
    if (length := len(scan.name)) > LONGEST:
        faults.append(f"scan {scan.name}: found {length} letters, expected at most {LONGEST}")
    if scan.side not in SIDES:
        faults.append(f"side '{scan.side}': expected left, right or nothing")
    if scan.split not in ("", *SPLITS):
        faults.append(f"split '{scan.split}': expected {', '.join(SPLITS)} or nothing")
    if not scan.image and simulate and not scan.label:
        faults.append("no image, nor a label map to simulate it from")
    if not scan.image and not simulate:
        faults.append(
            "no image; cohort.simulate: true simulates those of knees that have a label map"
        )
    if scan.split == "test" and not scan.label:
        faults.append("a test scan needs a label map")
    return faults


def _decathlon(config: dict[str, Any]) -> list[Scan]:
    """Index a Decathlon task: `imagesTr`/`labelsTr` as downloaded, or `images`/`labels`."""
    root = Path(config["cohort"]["path"])
    for images, labels in (("imagesTr", "labelsTr"), ("images", "labels")):
        if (root / images).is_dir() and (root / labels).is_dir():
            break
    else:
        raise UserError(
            f"{root}: expected the folders imagesTr and labelsTr (or images and labels) of a "
            "Medical Segmentation Decathlon task; set cohort.path to the folder that holds them"
        )
    # The Decathlon's archives carry macOS resource forks named ._<case>.nii.gz.
    files = sorted(p for p in (root / labels).glob("*.nii.gz") if not p.name.startswith("."))
    if not files:
        raise UserError(f"{root / labels}: no *.nii.gz files")
    return [
        Scan(path.name.removesuffix(".nii.gz"), "", "", str(root / images / path.name), str(path))
        for path in files
    ]


def _check_files(scans: list[Scan], source: str | None) -> None:
    """Raise one error that lists every missing file of user data, or each that no rule can name."""
    if source is None:
        return
    paths = [path for scan in scans for path in (scan.image, scan.label) if path]
    braces = [f"{path}: rename it" for path in paths if {"{", "}"} & {*path}]
    raise_all(f"{source}: Snakemake takes braces in paths for wildcards:", braces)
    missing = [f"{path}: no such file or folder" for path in paths if not Path(path).exists()]
    raise_all(f"{source}: {len(missing)} of its files are missing:", missing)
    owned = [(f"{s.name}: {k}", getattr(s, k)) for s in scans for k in ("image", "label")]
    again = same_files((owner, path and Path(path)) for owner, path in owned)
    raise_all(f"{source}: no file may be that of two scans:", again)
