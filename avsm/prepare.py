"""Scans as they come, brought to the grid on which networks are trained; done once and kept."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from avsm.errors import UserError, raise_all
from avsm.files import write_rows, write_text
from avsm.grid import PERCENTILES, WorkingGrid, like, majority_vote, normalise, resample_by_area
from avsm.images import canonical, read_image, write_image
from avsm.manifest import OPTIONAL, REQUIRED, Scan, read_manifest

log = logging.getLogger(__name__)
RECORD = "prepared.json"  # what each file was made of: another source or grid makes it anew
SAME_MM = 1e-2  # two grids are one where their corners differ by less


def prepare(
    manifest: str | Path, folder: str | Path, size: Sequence[int], mirror_left: bool = False
) -> Path:
    """Bring the scans of a manifest to one grid over each one's field of view.

    Axes become RAS+, the .1 and 99.9 percentiles 0 and 1, voxels averages by area, labels those
    that cover most of a voxel.

    Parameters
    ----------
    manifest
        CSV, see ``manifest.read_manifest``; images of any size, spacing, orientation, intensities.
    folder
        Where the images, the label maps and their manifest go. What is there is not made again.
    size
        Voxels (x, y, z).
    mirror_left
        Whether scans whose ``side`` is left are reflected, so that all are right ones.

    Returns
    -------
    Path
        The manifest of the prepared scans.

    Raises
    ------
    UserError
        If a scan cannot be read or used; all such are listed.
    """
    folder, scans = Path(folder), read_manifest(manifest)
    grid = WorkingGrid(tuple(size))
    before = _read_record(folder / RECORD)
    record, rows, faults, begun = {}, [], [], time.monotonic()
    for number, scan in enumerate(scans):
        name = f"{number:05d}"
        paths = {"image": folder / f"{name}.nii", "label": folder / f"{name}_label.nii"}
        mirrored = mirror_left and scan.side == "left"
        record[name] = _made_of(scan, size, mirrored)
        done = paths["image"].is_file() and (scan.label is None or paths["label"].is_file())
        try:
            if not done or before.get(name) != record[name]:
                _prepare(scan, paths, grid, mirrored)
        except UserError as error:
            faults.append(str(error))
            del record[name]
            continue
        files = {"image": paths["image"].name, "label": paths["label"].name if scan.label else ""}
        rows.append(
            {key: getattr(scan, key) for key in ("subject", "split", "visit", "side")} | files
        )
        if (number + 1) % 20 == 0 or number + 1 == len(scans):
            left = (time.monotonic() - begun) / (number + 1) * (len(scans) - number - 1)
            log.info("%d of %d scans prepared, %.0f s left", number + 1, len(scans), left)
    write_text(folder / RECORD, json.dumps(record, indent=1))
    raise_all(f"{manifest}: scans that cannot be prepared:", faults)
    path = folder / "scans.csv"
    write_rows(path, [*REQUIRED, *OPTIONAL], rows)
    return path


def _prepare(scan: Scan, paths: dict[str, Path], grid: WorkingGrid, mirrored: bool) -> None:
    own = read_image(scan.image)
    image = canonical(own)
    target, edges = grid.placed_on(image)
    array = normalise(sitk.GetArrayFromImage(image), str(scan.image))
    array = array[..., ::-1] if mirrored else array
    if scan.label is not None:
        labels = read_image(scan.label)
        _check_label(labels, own, scan.label)
        values = sitk.GetArrayFromImage(canonical(labels))
        values = values[..., ::-1] if mirrored else values
        write_image(like(majority_vote(values, edges), target), paths["label"])
    write_image(like(resample_by_area(array, edges), target), paths["image"])


def _check_label(labels: sitk.Image, image: sitk.Image, path: Path) -> None:
    """Raise UserError unless a label map is of whole numbers up to 255, on its image's grid."""
    values = sitk.GetArrayViewFromImage(labels)
    if not (np.equal(np.mod(values, 1), 0).all() and 0 <= values.min() <= values.max() <= 255):
        raise UserError(f"{path}: expected whole numbers from 0 to 255")
    size = image.GetSize()
    corners = [(0, 0, 0), (size[0] - 1, 0, 0), (0, size[1] - 1, 0), (0, 0, size[2] - 1)]
    apart = [
        np.subtract(*(i.TransformIndexToPhysicalPoint(c) for i in (labels, image))) for c in corners
    ]
    if labels.GetSize() != size or np.abs(apart).max() > SAME_MM:
        raise UserError(
            f"{path}: expected the image's grid {size}, found {labels.GetSize()} or another place"
        )


def _made_of(scan: Scan, size: Sequence[int], mirrored: bool) -> dict[str, Any]:
    files = [path for path in (scan.image, scan.label) if path is not None]
    stats = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    settings = {"size": list(size), "mirrored": mirrored, "percentiles": list(PERCENTILES)}
    return {"files": [list(stat) for stat in stats], **settings}


def _read_record(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
