"""Preprocessing of one scan: canonical axes, mirroring, intensities, the working grid."""

from collections.abc import Sequence

import numpy as np
import SimpleITK as sitk

from avsm.grid import WorkingGrid, image_on_grid, labels_on_grid, like
from avsm.images import read_image


def preprocess_image(
    path: str, grid: WorkingGrid, mirrored: bool, percentiles: Sequence[float]
) -> sitk.Image:
    """Return an image on the working grid: float32 in [0, 1], true physical geometry."""
    image = read_image(path, notes=[])  # the check told of them
    return image_on_grid(image, grid, path, percentiles, mirrored)


def preprocess_label(
    path: str, grid: WorkingGrid, mirrored: bool, merge: Sequence[dict[str, int]]
) -> sitk.Image:
    """Return a label map on the working grid, uint8, values merged as configured."""
    labels = read_image(path, notes=[])
    merged = like(merge_labels(sitk.GetArrayFromImage(labels), merge), labels)
    return labels_on_grid(merged, grid, mirrored)


def merge_labels(labels: np.ndarray, merge: Sequence[dict[str, int]]) -> np.ndarray:
    """Return uint8 labels in which every value `from` has become `to`."""
    merged = labels.astype(np.uint8)
    for rule in merge:
        merged[labels == rule["from"]] = rule["to"]
    return merged
