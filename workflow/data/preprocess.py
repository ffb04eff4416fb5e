"""Preprocessing of one scan: canonical axes, mirroring, intensities, the working grid."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import SimpleITK as sitk

from avsm.grid import WorkingGrid, image_on_grid, labels_on_grid, like
from avsm.images import read_image
from workflow.data.scan import Scan


def preprocess_image(
    scan: Scan, path: str, grid: WorkingGrid, mirror_left: bool, percentiles: Sequence[float]
) -> sitk.Image:
    """Return the scan's image on the working grid: float32 in [0, 1], true physical geometry."""
    image = read_image(path, notes=[])  # the check told of them
    return image_on_grid(image, grid, path, percentiles, _is_mirrored(scan, mirror_left))


def preprocess_label(
    scan: Scan, path: str, grid: WorkingGrid, mirror_left: bool, merge: Sequence[dict[str, int]]
) -> sitk.Image:
    """Return the scan's label map on the working grid, uint8, values merged as configured."""
    labels = read_image(path, notes=[])
    merged = like(merge_labels(sitk.GetArrayFromImage(labels), merge), labels)
    return labels_on_grid(merged, grid, _is_mirrored(scan, mirror_left))


def merge_labels(labels: np.ndarray, merge: Sequence[dict[str, int]]) -> np.ndarray:
    """Return uint8 labels in which every value `from` has become `to`."""
    merged = labels.astype(np.uint8)
    for rule in merge:
        merged[labels == rule["from"]] = rule["to"]
    return merged


def _is_mirrored(scan: Scan, mirror_left: bool) -> bool:
    """Tell whether a scan is reflected, so that all knees are right knees."""
    return mirror_left and scan.side == "left"
