"""Checks of a cohort's own files before anything is computed from them."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import SimpleITK as sitk

from avsm.images import canonical, count_not_finite
from workflow.data.preprocess import merge_labels
from workflow.data.scan import Scan
from workflow.errors import DataError
from workflow.geometry import describe_grid, same_grid
from workflow.images import read_image

# Femur, tibia and patella in OAI's label maps, which the simulator paints around.
BONES = (1, 3, 5)


def faults_of_scans(scans: Sequence[Scan], labels: dict[str, list], threads: int = 1) -> list[str]:
    """Return what is wrong with the scans' files, each with its scan's name in front."""
    with ThreadPoolExecutor(threads) as pool:
        found = pool.map(lambda scan: scan_faults(scan, labels), scans)
    return [
        f"{scan.name}: {fault}" for scan, own in zip(scans, found, strict=True) for fault in own
    ]


def scan_faults(scan: Scan, labels: dict[str, list]) -> list[str]:
    """Return what is wrong with a scan's image, its label map, and the two together."""
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
    return faults


def _image_faults(image: sitk.Image, path: str) -> list[str]:
    """Return what makes an image's intensities unusable."""
    if image.GetNumberOfComponentsPerPixel() != 1:
        found = image.GetNumberOfComponentsPerPixel()
        return [f"{path}: found {found} components a voxel, expected 1 (a grey image)"]
    array = sitk.GetArrayViewFromImage(image)
    if array.min() == array.max():
        return [f"{path}: constant image, every voxel is {array.flat[0]}"]
    return []


def _label_faults(label: sitk.Image, path: str, labels: dict[str, list]) -> list[str]:
    """Return what makes a label map unusable."""
    values = np.unique(sitk.GetArrayViewFromImage(label))
    if not np.isin(values, np.arange(256)).all():
        return [f"{path}: found label values {values[:5].tolist()} …, expected integers 0 to 255"]
    merged = np.unique(merge_labels(values, labels["merge"])).astype(int).tolist()
    after = " after labels.merge" if labels["merge"] else ""
    return [
        f"{path}: label {structure['value']} ({structure['name']}) is absent; found the values "
        f"{merged}{after}"
        for structure in labels["structures"]
        if structure["value"] not in merged
    ]
