"""Checks of a cohort's own files before anything is computed from them."""

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import SimpleITK as sitk

from avsm.errors import UserError
from avsm.files import file_digest, files_of
from avsm.grid import LIKE_LABELS, has_few_values, label_faults
from avsm.images import canonical, read_image
from workflow.data.preprocess import merge_labels
from workflow.data.scans import Scan

# Femur, tibia and patella in OAI's label maps, which the simulator paints around.
BONES = (1, 3, 5)


class Checked(NamedTuple):
    """What is wrong with the files of scans, what is odd, and the digest of each file's voxels.

    Of several scans, faults, warnings and the files that are keys have their scan's name in front.
    """

    faults: list[str]
    warnings: list[str]
    digests: dict[str, str]


def check_scans(scans: Sequence[Scan], labels: dict[str, list], threads: int = 1) -> Checked:
    """Check the files of scans side by side."""
    whole = Checked([], [], {})
    with ThreadPoolExecutor(threads) as pool:
        found = pool.map(lambda scan: _check_scan(scan, labels), scans)
        for scan, (faults, warnings, digests) in zip(scans, found, strict=True):
            whole.faults.extend(f"{scan.name}: {fault}" for fault in faults)
            whole.warnings.extend(f"{scan.name}: {warning}" for warning in warnings)
            whole.digests.update({f"{scan.name}: {file}": d for file, d in digests.items()})
    return whole


def copies(digests: Mapping[str, str]) -> list[list[str]]:
    """Return the files, named as by `check_scans`, that have the same voxels."""
    files = defaultdict(list)
    for file, digest in digests.items():
        files[digest].append(file)
    return [same for same in files.values() if len(same) > 1]


def content(path: str) -> dict[str, int | str]:
    """Return the `bytes` and the `sha256` of an image; of several files, of all their digests."""
    files = files_of(path)
    whole, *more = each = [file_digest(file) for file in files]
    whole = hashlib.sha256(" ".join(each).encode()).hexdigest() if more else whole
    return {"bytes": sum(file.stat().st_size for file in files), "sha256": whole}


def _check_scan(scan: Scan, labels: dict[str, list]) -> Checked:
    """Check a scan's image, its label map, and the two together."""
    faults, warnings, read = [], [], {}
    for role, path in (("image", scan.image), ("label", scan.label)):
        if path:
            try:
                read[role] = canonical(read_image(path, warnings))
            except UserError as error:
                faults.append(str(error))
    if "image" in read:
        array = sitk.GetArrayViewFromImage(read["image"])
        if array.min() == array.max():
            faults.append(f"{scan.image}: constant image, every voxel is {array.flat[0]}")
    if "label" in read:
        wrong = label_faults(read["label"], scan.label, read.get("image"), scan.image)
        faults += wrong or _structure_faults(read["label"], scan, labels)
    elif "image" in read and has_few_values(read["image"]):
        faults.append(f"{scan.image}: {LIKE_LABELS}")
    digests = {getattr(scan, role): _digest(image) for role, image in read.items() if not faults}
    return Checked(faults, warnings, digests)


def _digest(image: sitk.Image) -> str:
    """Return a digest of the values of an image on RAS+ axes, whatever their type."""
    found = hashlib.sha256()
    for plane in sitk.GetArrayViewFromImage(image):
        found.update(plane.astype("<f8"))
    return found.hexdigest()


def _structure_faults(label: sitk.Image, scan: Scan, labels: dict[str, list]) -> list[str]:
    """Return what is missing in a label map: scored structures, or what is simulated from."""
    values = np.unique(sitk.GetArrayViewFromImage(label))
    merged = np.unique(merge_labels(values, labels["merge"])).astype(int).tolist()
    after = " after labels.merge" if labels["merge"] else ""
    faults = [
        f"{scan.label}: label {structure['value']} ({structure['name']}) is absent; found the "
        f"values {merged}{after}"
        for structure in labels["structures"]
        if structure["value"] not in merged
    ]
    if not scan.image and not np.isin(values, BONES).any():
        faults.append(
            f"{scan.label}: found none of the bones {BONES}: an image can only be simulated "
            "from a knee's label map with OAI's values; add the scan's image"
        )
    return faults
