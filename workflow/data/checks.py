"""Checks of a cohort's own files before anything is computed from them."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import SimpleITK as sitk

from avsm.errors import UserError
from avsm.grid import odd_labels
from avsm.images import canonical, read_image
from workflow.data.cohort import Scan
from workflow.data.preprocess import merge_labels
from workflow.geometry import describe_grid, same_grid

# Femur, tibia and patella in OAI's label maps, which the simulator paints around.
BONES = (1, 3, 5)


def faults_of_scans(
    scans: Sequence[Scan], labels: dict[str, list], threads: int = 1
) -> tuple[list[str], list[str]]:
    """Return what is wrong with the scans' files, and what is odd, each after its scan's name."""
    with ThreadPoolExecutor(threads) as pool:
        found = [*pool.map(lambda scan: scan_faults(scan, labels), scans)]
    faults, notes = (
        [f"{scan.name}: {text}" for scan, texts in zip(scans, kind, strict=True) for text in texts]
        for kind in zip(*found, strict=True)
    )
    return faults, notes


def scan_faults(scan: Scan, labels: dict[str, list]) -> tuple[list[str], list[str]]:
    """Return what is wrong with a scan's image, its label map and the two together; what is odd."""
    faults, notes, read = [], [], {}
    for role, path in (("image", scan.image), ("label", scan.label)):
        if path:
            try:
                read[role] = canonical(read_image(path, notes))
            except UserError as error:
                faults.append(str(error))
    if "image" in read:
        faults += _image_faults(read["image"], scan.image)
    if "label" in read:
        faults += _label_faults(read["label"], scan.label, labels)
        if not scan.image and not np.isin(sitk.GetArrayViewFromImage(read["label"]), BONES).any():
            faults.append(
                f"{scan.label}: found none of the bones {BONES}: an image can only be simulated "
                "from a knee's label map with OAI's values; add the scan's image"
            )
    if len(read) == 2 and not same_grid(read["image"], read["label"]):
        faults.append(
            f"{scan.label}: not on the grid of its image: found {describe_grid(read['label'])}, "
            f"expected {describe_grid(read['image'])}"
        )
    return faults, notes


def _image_faults(image: sitk.Image, path: str) -> list[str]:
    """Return what makes an image's intensities unusable."""
    array = sitk.GetArrayViewFromImage(image)
    if array.min() == array.max():
        return [f"{path}: constant image, every voxel is {array.flat[0]}"]
    return []


def _label_faults(label: sitk.Image, path: str, labels: dict[str, list]) -> list[str]:
    """Return what makes a label map unusable."""
    values = np.unique(sitk.GetArrayViewFromImage(label))
    if odd := odd_labels(values):
        return [f"{path}: found label values {odd}, expected integers 0 to 255"]
    merged = np.unique(merge_labels(values, labels["merge"])).astype(int).tolist()
    after = " after labels.merge" if labels["merge"] else ""
    return [
        f"{path}: label {structure['value']} ({structure['name']}) is absent; found the values "
        f"{merged}{after}"
        for structure in labels["structures"]
        if structure["value"] not in merged
    ]
