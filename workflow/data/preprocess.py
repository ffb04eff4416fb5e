"""Preprocessing of one scan: canonical axes, mirroring, intensities, the working grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk

from workflow.data.cohort import Scan
from workflow.errors import DataError
from workflow.images import canonical, like, read_image


@dataclass(frozen=True)
class WorkingGrid:
    """The grid on which methods register: `size` in voxels (x, y, z), RAS+ axes.

    With `spacing_mm` None it covers the image's own field of view, else it is centred on it and
    pads or crops.
    """

    size: tuple[int, int, int]
    spacing_mm: tuple[float, float, float] | None

    def placed_on(self, image: sitk.Image) -> tuple[sitk.Image, list[np.ndarray]]:
        """Return the empty grid and, for x, y and z, its edges in the image's voxels.

        Edge coordinates: voxel i of the image covers [i, i + 1]; ``size + 1`` edges an axis.
        """
        size, extent = np.asarray(self.size), np.asarray(image.GetSize())
        spacing = np.asarray(image.GetSpacing())
        step = extent / size if self.spacing_mm is None else np.asarray(self.spacing_mm) / spacing
        start = (extent - size * step) / 2
        grid = sitk.Image(self.size, sitk.sitkUInt8)
        grid.SetDirection(image.GetDirection())
        grid.SetSpacing((spacing * step).tolist())
        first_centre = (start + step / 2 - 0.5).tolist()
        grid.SetOrigin(image.TransformContinuousIndexToPhysicalPoint(first_centre))
        edges = [start[k] + step[k] * np.arange(size[k] + 1) for k in range(3)]
        return grid, edges


def axis_weights(voxels: int, edges: np.ndarray) -> np.ndarray:
    """Return the weights ``(len(edges) - 1, voxels)`` that resample one axis.

    Down-sampling averages by area: each weight is the part of the target voxel that a source
    voxel covers, so nothing aliases. Up-sampling interpolates linearly. What lies outside the
    image has no weight, hence counts as 0.
    """
    step = edges[1] - edges[0]
    source = np.arange(voxels)
    if step >= 1:
        upper = np.minimum(edges[1:, None], source + 1)
        lower = np.maximum(edges[:-1, None], source)
        return (np.clip(upper - lower, 0, None) / step).astype(np.float32)
    centres = (edges[:-1] + edges[1:]) / 2 - 0.5
    # The half voxel at each face has no second neighbour and takes its only one's value.
    within = np.clip(centres, 0, voxels - 1)
    weights = np.clip(1 - np.abs(within[:, None] - source), 0, None)
    outside = (centres < -0.5) | (centres > voxels - 0.5)
    weights[outside] = 0
    return weights.astype(np.float32)


def resample_by_area(array: np.ndarray, edges: Sequence[np.ndarray]) -> np.ndarray:
    """Resample float32 ``(z, y, x)`` to the target voxels with the given edges in x, y and z."""
    for axis, axis_edges in zip((0, 1, 2), reversed(edges), strict=True):
        weights = axis_weights(array.shape[axis], axis_edges)
        array = np.moveaxis(np.tensordot(weights, array, axes=(1, axis)), 0, axis)
    return np.ascontiguousarray(array)


def normalise(array: np.ndarray, percentiles: Sequence[float]) -> np.ndarray:
    """Map two percentiles to 0 and 1 and clamp the rest (paper, section 3)."""
    low, high = np.percentile(array, percentiles)
    if not high > low:
        raise DataError(
            f"found the same intensity {low:g} at the percentiles {list(percentiles)}: "
            "a constant image cannot be normalised"
        )
    scaled = (array.astype(np.float32) - np.float32(low)) / np.float32(high - low)
    return np.clip(scaled, 0, 1)


def majority_vote(labels: np.ndarray, edges: Sequence[np.ndarray]) -> np.ndarray:
    """Give each target voxel the value that covers most of it; uint8 ``(z, y, x)``.

    Ties go to the lower value, so to the background first.
    """
    values = np.unique(np.append(labels, 0))
    best_part, best_value = None, None
    for value in values:
        part = resample_by_area((labels == value).astype(np.float32), edges)
        if value == 0:
            # What the image does not cover is background.
            covered = resample_by_area(np.ones(labels.shape, np.float32), edges)
            part += 1 - covered
            best_part, best_value = part, np.zeros(part.shape, np.uint8)
            continue
        wins = part > best_part
        best_part[wins] = part[wins]
        best_value[wins] = value
    return best_value


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
        array = normalise(array, percentiles)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
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
