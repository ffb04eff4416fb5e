"""Checks of a cohort's own files before anything is computed from them."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import SimpleITK as sitk

from avsm.images import canonical, count_not_finite
from avsm.labels import LIKE_LABELS, has_few_values, label_faults
from workflow.data.cohort import Scan
from workflow.data.preprocess import merge_labels
from workflow.errors import DataError
from workflow.images import read_image

# Femur, tibia and patella in OAI's label maps, which the simulator paints around.
BONES = (1, 3, 5)


def check_scans(
    scans: Sequence[Scan], labels: dict[str, list], threads: int = 1
) -> tuple[list[str], dict[str, str]]:
    """Return what is wrong with the scans' files, and the digest of each file's voxels.

    Faults have their scan's name in front, files their scan's name and what they are of it.
    """
    with ThreadPoolExecutor(threads) as pool:
        found = [*pool.map(lambda scan: _check_scan(scan, labels), scans)]
    faults, digests = [], {}
    for scan, (own, voxels) in zip(scans, found, strict=True):
        faults += [f"{scan.name}: {fault}" for fault in own]
        digests |= {f"{scan.name}: {getattr(scan, role)}": d for role, d in voxels.items()}
    return faults, digests


def copies(digests: Mapping[str, str]) -> list[list[str]]:
    """Return the files, named as by `check_scans`, that have the same voxels."""
    files = defaultdict(list)
    for file, digest in digests.items():
        files[digest].append(file)
    return [same for same in files.values() if len(same) > 1]


def _check_scan(scan: Scan, labels: dict[str, list]) -> tuple[list[str], dict[str, str]]:
    """Return the faults of a scan's image, its label map, and the two together, and digests."""
    faults, read = [], {}
    for role, path in (("image", scan.image), ("label", scan.label)):
        if path:
            try:
                read[role] = canonical(read_image(path))
            except DataError as error:
                faults.append(str(error))
    for role, image in read.items():
        if bad := count_not_finite(image, getattr(scan, role)):
            faults.append(f"{getattr(scan, role)}: found {bad} voxels that are NaN or infinite")
    if "image" in read:
        faults += _image_faults(read["image"], scan.image)
    if "label" in read:
        wrong = label_faults(read["label"], scan.label, read.get("image"), scan.image)
        faults += wrong or _structure_faults(read["label"], scan, labels)
    elif "image" in read and has_few_values(read["image"]):
        faults.append(f"{scan.image}: {LIKE_LABELS}")
    return faults, {role: _digest(image) for role, image in read.items() if not faults}


def _digest(image: sitk.Image) -> str:
    """Return a digest of the values of an image on RAS+ axes, whatever their type."""
    found = hashlib.sha256()
    for plane in sitk.GetArrayViewFromImage(image):
        found.update(plane.astype("<f8"))
    return found.hexdigest()


def _image_faults(image: sitk.Image, path: str) -> list[str]:
    """Return what makes an image's intensities unusable."""
    if image.GetNumberOfComponentsPerPixel() != 1:
        found = image.GetNumberOfComponentsPerPixel()
        return [f"{path}: found {found} components a voxel, expected 1 (a grey image)"]
    array = sitk.GetArrayViewFromImage(image)
    if array.min() == array.max():
        return [f"{path}: constant image, every voxel is {array.flat[0]}"]
    return []


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
