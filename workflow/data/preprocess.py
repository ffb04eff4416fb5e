"""Preprocessing of one scan: canonical axes, mirroring, intensities, the working grid."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import SimpleITK as sitk

from avsm.errors import UserError
from avsm.grid import WorkingGrid, like, majority_vote, normalise, resample_by_area
from avsm.images import canonical
from workflow.data.cohort import Scan
from workflow.errors import DataError
from workflow.images import read_image


def preprocess_image(
    scan: Scan, path: str, grid: WorkingGrid, mirror_left: bool, percentiles: Sequence[float]
) -> sitk.Image:
    """Return the scan's image on the working grid: float32 in [0, 1], true physical geometry.

    A mirrored image keeps the header of the unmirrored one: the anatomy is reflected at the
    central plane of its own field of view.
    """
    image = canonical(read_image(path))
    target, edges = grid.placed_on(image)
    array = _mirrored(sitk.GetArrayFromImage(image), scan, mirror_left)
    try:
        array = normalise(array, path, percentiles)
    except UserError as error:
        raise DataError(str(error)) from error
    return like(resample_by_area(array, edges), target)


def preprocess_label(
    scan: Scan, path: str, grid: WorkingGrid, mirror_left: bool, merge: Sequence[dict[str, int]]
) -> sitk.Image:
    """Return the scan's label map on the working grid, uint8, values merged as configured."""
    image = canonical(read_image(path))
    target, edges = grid.placed_on(image)
    array = _mirrored(sitk.GetArrayFromImage(image), scan, mirror_left)
    return like(majority_vote(merge_labels(array, merge), edges), target)


def merge_labels(labels: np.ndarray, merge: Sequence[dict[str, int]]) -> np.ndarray:
    """Return uint8 labels in which every value `from` has become `to`."""
    merged = labels.astype(np.uint8)
    for rule in merge:
        merged[labels == rule["from"]] = rule["to"]
    return merged


def _mirrored(array: np.ndarray, scan: Scan, mirror_left: bool) -> np.ndarray:
    """Flip a left knee's x axis (the last of the array), so that all knees are right knees."""
    return array[..., ::-1] if mirror_left and scan.side == "left" else array
