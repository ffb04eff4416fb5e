"""Scans as they come, brought to the grid on which networks are trained; done once and kept."""

import hashlib
import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path

from avsm.errors import UserError, raise_all
from avsm.files import stamp, write_rows
from avsm.grid import (
    LIKE_LABELS,
    PERCENTILES,
    WorkingGrid,
    has_few_values,
    image_on_grid,
    label_faults,
    labels_on_grid,
)
from avsm.images import canonical, read_image, write_image
from avsm.manifest import OPTIONAL, REQUIRED, Scan, read_manifest

log = logging.getLogger(__name__)
MANIFEST = "scans.csv"
SIDES = ("left", "right", "")


def prepare(
    manifest: str | Path, folder: str | Path, size: Sequence[int], mirror_left: bool = False
) -> Path:
    """Bring the scans of a manifest to one grid of ``size`` (x, y, z), axes RAS+.

    The grid covers each one's field of view. Voxels are averages by area, labels those that cover
    most of a voxel; the .1 and 99.9 percentiles become 0 and 1. ``mirror_left`` reflects scans of
    the left ``side``. What the folder has is not made again. Gives the manifest there; a UserError
    lists all scans that cannot be used.
    """
    folder, scans = Path(folder), read_manifest(manifest)
    inputs = [
        Path(manifest),
        *(path for scan in scans for path in (scan.image, scan.label) if path),
    ]
    raise_all(
        f"{folder}: is cleared of what it need not hold, and has files that are to be read:",
        sorted({str(path) for path in inputs if folder.resolve() in path.resolve().parents}),
    )
    if mirror_left:
        other = sorted({scan.side for scan in scans} - {*SIDES})
        if other:
            raise UserError(
                f"{manifest}: side: expected left, right or nothing where left scans are to be "
                f"reflected, found {', '.join(other)}"
            )
    grid = WorkingGrid(tuple(size))
    rows, faults, begun = [], [], time.monotonic()
    for number, scan in enumerate(scans, start=1):
        mirrored = mirror_left and scan.side == "left"
        image = folder / f"{_made_of(scan, size, mirrored)}.nii"
        label = image.with_name(f"{image.stem}_label.nii") if scan.label else None
        try:
            if not image.is_file():
                _prepare(scan, image, label, grid, mirrored)
        except UserError as error:
            faults.append(str(error))
            continue
        kept = {key: getattr(scan, key) for key in ("subject", "split", "visit", "side")}
        kept |= {"label": label.name if label else "", "mirrored": "yes" if mirrored else ""}
        rows.append(kept | {"image": image.name})
        if number % 20 == 0 or number == len(scans):
            left = (time.monotonic() - begun) / number * (len(scans) - number)
            log.info("%d of %d scans prepared, %.0f s left", number, len(scans), left)
    raise_all(f"{manifest}: scans that cannot be prepared:", faults)
    write_rows(folder / MANIFEST, [*REQUIRED, *OPTIONAL], rows)
    used = {row[kind] for row in rows for kind in ("image", "label")}
    for path in folder.glob("*.nii"):
        if path.name not in used:
            path.unlink()  # of other sources, or another grid
    return folder / MANIFEST


def _prepare(
    scan: Scan, image_path: Path, label_path: Path | None, grid: WorkingGrid, mirrored: bool
) -> None:
    """Write the label map, then the image: where there is an image, the scan is done."""
    own = read_image(scan.image)
    image = image_on_grid(own, grid, str(scan.image), mirrored=mirrored)
    if label_path is not None:
        labels = read_image(scan.label)
        if faults := label_faults(canonical(labels), scan.label, canonical(own), scan.image):
            raise UserError("; ".join(faults))
        write_image(labels_on_grid(labels, grid, mirrored), label_path)
    elif has_few_values(own):
        raise UserError(f"{scan.image}: {LIKE_LABELS}")
    write_image(image, image_path)


def _made_of(scan: Scan, size: Sequence[int], mirrored: bool) -> str:
    """Name what a prepared scan is made of and how: with another source or grid, another name."""
    stamps = [stamp(path.absolute()) for path in (scan.image, scan.label) if path is not None]
    text = json.dumps([stamps, list(size), mirrored, PERCENTILES])
    return hashlib.sha256(text.encode()).hexdigest()[:16]
