"""Grids of images, the way on to a working grid, and whether a label map is its image's.

A working grid has RAS+ axes: x to the right, y anterior, z superior.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from avsm.errors import UserError
from avsm.images import canonical
from avsm.volume import corners

PERCENTILES = (0.1, 99.9)
VALUES = range(256)  # of label maps
SHOWN = 5
FEW = 16  # no image has so few values
LIKE_LABELS = "found few values, all whole numbers from 0 to 255, as of a label map"


def index_to_physical(grid: sitk.Image) -> tuple[np.ndarray, np.ndarray]:
    """Return ``A (3, 3)`` and ``origin (3,)`` with ``physical = A @ index + origin``."""
    direction = np.asarray(grid.GetDirection()).reshape(3, 3)
    return direction * np.asarray(grid.GetSpacing()), np.asarray(grid.GetOrigin())


def same_grid(a: sitk.Image, b: sitk.Image) -> bool:
    """Tell whether two grids have the same size and corners, within a hundredth of a voxel."""
    if a.GetSize() != b.GetSize():
        return False
    ends = corners(a.GetSize())
    matrix_a, origin_a = index_to_physical(a)
    matrix_b, origin_b = index_to_physical(b)
    in_b = np.linalg.solve(matrix_b, matrix_a @ ends + (origin_a - origin_b)[:, None])
    return bool(np.abs(in_b - ends).max() <= 1e-2)


def describe_grid(grid: sitk.Image) -> str:
    """Return size, spacing, origin and direction in one line, for messages."""
    spacing, origin, direction = (
        np.round(values, 4).tolist()
        for values in (grid.GetSpacing(), grid.GetOrigin(), grid.GetDirection())
    )
    return f"size {grid.GetSize()}, spacing {spacing}, origin {origin}, direction {direction}"


@dataclass(frozen=True)
class WorkingGrid:
    """The grid on which images are registered: ``size`` in voxels (x, y, z), RAS+ axes.

    Without ``spacing_mm`` it covers an image's own field of view; else it pads or crops it.
    """

    size: tuple[int, int, int]
    spacing_mm: tuple[float, float, float] | None = None

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

    Down-sampling averages by area, so nothing aliases; up-sampling interpolates linearly. What lies
    outside the image has no weight, hence counts as 0.
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
        if np.array_equal(axis_edges, np.arange(array.shape[axis] + 1)):
            continue  # the voxels themselves
        weights = axis_weights(array.shape[axis], axis_edges)
        array = np.moveaxis(np.tensordot(weights, array, axes=(1, axis)), 0, axis)
    return np.ascontiguousarray(array)


def normalise(
    array: np.ndarray, name: str, percentiles: Sequence[float] = PERCENTILES
) -> np.ndarray:
    """Map two percentiles to 0 and 1 and clamp the rest (paper, section 3), float32.

    A UserError says that the image is constant or not finite.
    """
    low, high = np.percentile(array, percentiles)
    if not (np.isfinite(low) and np.isfinite(high) and high > low):
        raise UserError(
            f"{name}: found the intensities {low:g} and {high:g} at the percentiles "
            f"{list(percentiles)}; expected an image that is finite and not constant"
        )
    # In float64, and cast behind: far from zero a float32 has no digits for differences.
    scaled = (array - np.float64(low)) / (np.float64(high) - np.float64(low))
    return np.clip(scaled, 0, 1).astype(np.float32)


def majority_vote(labels: np.ndarray, edges: Sequence[np.ndarray]) -> np.ndarray:
    """Give each target voxel the value that covers most of it, the lower in ties; uint8."""
    # What the image does not cover is background.
    best_part = 1 - resample_by_area(np.ones(labels.shape, np.float32), edges)
    best_part += resample_by_area((labels == 0).astype(np.float32), edges)
    best_value = np.zeros(best_part.shape, np.uint8)
    for value in np.setdiff1d(labels, 0):
        part = resample_by_area((labels == value).astype(np.float32), edges)
        wins = part > best_part
        best_part[wins] = part[wins]
        best_value[wins] = value
    return best_value


def like(array: np.ndarray, grid: sitk.Image) -> sitk.Image:
    """Give an image of an array, ``(z, y, x)`` or ``(z, y, x, 3)``, with the geometry of a grid."""
    image = sitk.GetImageFromArray(array, isVector=array.ndim == 4)
    image.CopyInformation(grid)
    return image


def image_on_grid(
    image: sitk.Image,
    grid: WorkingGrid,
    name: str,
    percentiles: Sequence[float] = PERCENTILES,
    mirrored: bool = False,
) -> sitk.Image:
    """Bring an image to a working grid: float32 in [0, 1], see ``normalise``.

    ``mirrored`` reflects the anatomy at the centre of its field of view; the header stays.
    """
    image = canonical(image)
    target, edges = grid.placed_on(image)
    array = normalise(sitk.GetArrayFromImage(image), name, percentiles)
    return like(resample_by_area(array[..., ::-1] if mirrored else array, edges), target)


def labels_on_grid(labels: sitk.Image, grid: WorkingGrid, mirrored: bool = False) -> sitk.Image:
    """Bring a label map to a working grid, see ``majority_vote``; mirrored as images are."""
    labels = canonical(labels)
    target, edges = grid.placed_on(labels)
    array = sitk.GetArrayFromImage(labels)
    return like(majority_vote(array[..., ::-1] if mirrored else array, edges), target)


def check_unit_range(array: np.ndarray, name: str) -> np.ndarray:
    """Give an image that varies within [0, 1] as float32, or raise UserError."""
    low, high = float(array.min()), float(array.max())
    if low == high:
        raise UserError(f"{name}: constant image, every voxel is {low:g}")
    if not (low >= -1e-3 and high <= 1 + 1e-3):
        raise UserError(
            f"{name}: expected intensities in [0, 1], found {low:g} to {high:g}; avsm train --size "
            "and avsm register without --normalised bring them there"
        )
    return array.astype(np.float32)


def whole_edges(shape: Sequence[int], target: Sequence[int]) -> list[np.ndarray]:
    """Give the edges, for x, y and z, of a grid (D, H, W) over the whole of an image of another."""
    axes = zip(reversed(shape), reversed(target), strict=True)
    return [np.linspace(0, n, m + 1) for n, m in axes]


def to_grid(
    image: sitk.Image, shape: Sequence[int], name: str, normalised: bool = False
) -> np.ndarray:
    """Bring a scalar 3D image to a network's grid (D, H, W), axes RAS+: float32 in [0, 1]."""
    array = sitk.GetArrayFromImage(canonical(image))
    array = check_unit_range(array, name) if normalised else normalise(array, name)
    return resample_by_area(array, whole_edges(array.shape, shape))


def label_faults(
    label: sitk.Image,
    path: str | Path,
    image: sitk.Image | None = None,
    image_path: str | Path = "",
) -> list[str]:
    """Say why a label map, values 0 to 255, cannot be used, alone or with its image; axes RAS+."""
    values = np.unique(sitk.GetArrayViewFromImage(label))
    wrong, faults = values[~np.isin(values, VALUES) & np.isfinite(values)], []
    if wrong.size:
        shown = ", ".join(f"{value:.10g}" for value in wrong[:SHOWN].tolist())
        more = f" and {wrong.size - SHOWN} more" if wrong.size > SHOWN else ""
        faults.append(
            f"{path}: found the label values {shown}{more}, expected whole numbers from 0 to 255"
        )
    if image is None:
        return faults
    if not same_grid(image, label):
        faults.append(
            f"{path}: not on the grid of its image: found {describe_grid(label)}, expected "
            f"{describe_grid(image)}"
        )
    if has_few_values(image, len(VALUES) if wrong.size else len(values)):
        faults.append(
            f"{image_path}: found few values, all whole numbers from 0 to 255, and {len(values)} "
            f"in {path}: image and label map seem exchanged, or both are label maps"
        )
    return faults


def has_few_values(image: sitk.Image, most: int = FEW) -> bool:
    """Tell whether an image has at most so many values, all of which a label map may have."""
    found: set[float] = set()
    for plane in sitk.GetArrayViewFromImage(image):
        found.update(np.unique(plane).tolist())
        if len(found) > most:
            return False
    return found <= {*VALUES}
