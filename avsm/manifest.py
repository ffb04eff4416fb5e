"""The manifest: which scans there are, and which of them are trained and validated on."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from avsm.errors import UserError, nearest, raise_all
from avsm.files import read_table

TASKS = ("longitudinal", "cross-subject", "both")
SPLITS = ("train", "validation")
OTHER_SIDE = {"left": "right", "right": "left"}
REQUIRED = ("subject", "image", "split")
OPTIONAL = ("label", "visit", "side", "mirrored")


@dataclass(frozen=True)
class Scan:
    """One row of a manifest."""

    subject: str  # who was scanned
    image: Path
    label: Path | None
    split: str  # train or validation
    visit: str = ""  # when, if it is known
    side: str = ""  # of the body, if it is known
    mirrored: bool = False  # whether the image was reflected, and looks as one of the other side


def looks(scan: Scan) -> str:
    """Give the side of the body that an image looks like; what is not left or right stays."""
    return OTHER_SIDE.get(scan.side, scan.side) if scan.mirrored else scan.side


def misfit(task: str, a: Scan, b: Scan) -> str:
    """Say why two scans make no pair of a task, or nothing: one side, or mirrored to look like it.

    Longitudinal pairs are two visits of one subject's side, cross-subject ones two subjects. Other
    kinds of scans will do that have a subject, visit and side and may be mirrored.
    """
    if a is b:
        return "a scan with itself"
    if looks(a) != looks(b):
        known = a.side and b.side and not (a.mirrored or b.mirrored)
        reason = " while mirror_left is off" if known else ""
        return f"sides {a.side or 'unknown'} and {b.side or 'unknown'}{reason}"
    if task == "cross-subject":
        return "cross-subject, but the same patient" if a.subject == b.subject else ""
    if a.subject != b.subject:
        return "longitudinal, but different patients"
    if a.side != b.side:
        return "longitudinal, but different sides"
    return "longitudinal, but the same visit" if a.visit and a.visit == b.visit else ""


def read_manifest(path: str | Path) -> list[Scan]:
    """Read a CSV with the columns subject, image, split, and those of ``OPTIONAL`` that it has.

    Paths are relative to its folder; other splits (test) are left out. A UserError lists all
    faults.
    """
    path = Path(path)
    _, rows = read_table(path, "MANIFEST", REQUIRED)
    faults: list[str] = []
    scans, owned = [], []
    for line, row in rows.items():
        values = {key: row.get(key, "") for key in REQUIRED + OPTIONAL}
        values["side"] = values["side"].lower()
        wrong = _row_faults(values, path.parent)
        faults += [f"line {line}: {fault}" for fault in wrong]
        if not wrong and values["split"] in SPLITS:
            files = {key: path.parent / values[key] for key in ("image", "label") if values[key]}
            given = {"label": None, "mirrored": bool(values["mirrored"])}
            scans.append(scan := Scan(**values | given | files))
            owned += [(f"line {line}: image", scan.image), (f"line {line}: label", scan.label)]
    raise_all(f"{path}: the manifest has faults:", faults or same_files(owned))
    if not any(scan.split == "validation" for scan in scans):
        raise UserError(f"{path}: no scan has the split 'validation'; they choose the weights")
    trained, validated = ({scan.subject for scan in scans if scan.split == name} for name in SPLITS)
    raise_all(f"{path}: subjects in both splits:", sorted(trained & validated))
    return scans


def same_files(owned: Iterable[tuple[str, Path | None]]) -> list[str]:
    """Say which files come again, also by links; ``owned`` has what each is, and the file."""
    first: dict[tuple[int, int], tuple[str, Path]] = {}
    faults = []
    for owner, path in owned:
        if path is not None:
            stat = path.stat()
            other, known = first.setdefault((stat.st_dev, stat.st_ino), (owner, path))
            if other != owner:
                faults.append(f"{owner} {path} is the file of {other} {known}, expected another")
    return faults


def _row_faults(values: dict[str, str], folder: Path) -> list[str]:
    faults = [f"{key} is empty" for key in REQUIRED if not values[key]]
    if values["split"] and values["split"] not in (*SPLITS, "test"):
        hint = nearest(values["split"], SPLITS)
        faults.append(f"split '{values['split']}': expected {', '.join(SPLITS)} or test{hint}")
    if values["mirrored"] not in ("", "yes"):
        faults.append(f"mirrored '{values['mirrored']}': expected yes or nothing")
    faults += [
        f"{key} {values[key]!r}: found a character that cannot be seen"
        for key in ("subject", "visit", "side")
        if not values[key].isprintable()
    ]
    faults += [
        f"{key} {folder / values[key]}: no such file"
        for key in ("image", "label")
        if values[key] and values["split"] in SPLITS and not (folder / values[key]).exists()
    ]
    return faults
