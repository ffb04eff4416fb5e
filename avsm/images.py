"""Images in and out of files, and on to a network's grid.

A network's grid has RAS+ axes (x to the right, y anterior, z superior), covers the image's own
field of view with a given number of voxels, and holds intensities in [0, 1].
"""

from __future__ import annotations

import gzip
import math
import os
import zlib
from collections.abc import Sequence
from pathlib import Path

import nibabel
import numpy as np
import SimpleITK as sitk
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError

from avsm.errors import UserError

ORIENTATION = "RAS"
PERCENTILES = (0.1, 99.9)
NIFTI = (".nii", ".nii.gz")
FORMATS = (*NIFTI, ".mha", ".mhd", ".nrrd")
UNREADABLE = (
    RuntimeError, OSError, EOFError, zlib.error, ImageFileError, HeaderDataError, WrapStructError,
)  # fmt: skip
COMPLEX = (sitk.sitkComplexFloat32, sitk.sitkComplexFloat64)
CHUNK_BYTES = 1 << 22


def read_image(path: str | Path) -> sitk.Image:
    """Read a scalar 3D image of any format that SimpleITK knows.

    Raises
    ------
    UserError
        If the file is missing, cannot be read, is cut short, or does not hold a scalar 3D image of
        finite real numbers.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file; expected a 3D image ({', '.join(FORMATS)})")
    try:
        if path.name.endswith(NIFTI):
            check_length(path)
        image = sitk.ReadImage(str(path))
    except UNREADABLE as error:
        reason = str(error).strip().splitlines()[-1]
        raise UserError(f"{path}: cannot be read as an image ({reason})") from error
    check_image(image, str(path))
    if bad := count_not_finite(image, path):
        raise UserError(f"{path}: found {bad} voxels that are NaN or infinite")
    return image


def read_field(path: str | Path) -> sitk.Image:
    """Read a displacement field: a 3D image of three finite components, mm.

    Raises
    ------
    UserError
        If the file is missing, cannot be read, is cut short, or holds something else.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file; expected a displacement field")
    try:
        if path.name.endswith(NIFTI):
            check_length(path)
        field = sitk.ReadImage(str(path))
    except UNREADABLE as error:
        reason = str(error).strip().splitlines()[-1]
        raise UserError(f"{path}: cannot be read as a displacement field ({reason})") from error
    if field.GetDimension() != 3 or field.GetNumberOfComponentsPerPixel() != 3:
        raise UserError(
            f"{path}: expected a displacement field of 3 dimensions and 3 components, found "
            f"{field.GetDimension()} and {field.GetNumberOfComponentsPerPixel()}"
        )
    if bad := count_not_finite(field, path):
        raise UserError(f"{path}: found {bad} numbers that are NaN or infinite")
    return field


def check_length(path: Path) -> None:
    """Raise OSError or EOFError if a NIfTI file is not as long as its header says.

    ITK would fill what is missing with zeros, and leave out what is too much.
    """
    header = nibabel.load(path)
    expected = header.dataobj.offset + math.prod(header.shape) * header.get_data_dtype().itemsize
    if path.suffix == ".gz":
        with gzip.open(path) as stream:
            found = sum(map(len, iter(lambda: stream.read(CHUNK_BYTES), b"")))
    else:
        found = path.stat().st_size
    if found != expected:
        fault = "cut short" if found < expected else "longer than its header says"
        raise OSError(f"{fault}: found {found} bytes, expected {expected}")


def count_not_finite(image: sitk.Image, path: str | Path) -> int:
    """Count the voxels of the image in a file that are NaN or infinite."""
    array = sitk.GetArrayViewFromImage(image)
    if str(path).endswith(NIFTI):
        # ITK's NIfTI reader silently turns such values into 0, so the stored ones are looked at;
        # integers are always finite, and need no second reading.
        stored = nibabel.load(path)
        if np.issubdtype(stored.get_data_dtype(), np.integer):
            return 0
        array = np.asanyarray(stored.dataobj)
    return int(np.count_nonzero(~np.isfinite(array)))


def check_image(image: sitk.Image, name: str) -> None:
    """Raise UserError unless an image is 3D, scalar and at least two voxels a side."""
    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
        raise UserError(
            f"{name}: expected a scalar 3D image, found {image.GetDimension()} dimensions and "
            f"{image.GetNumberOfComponentsPerPixel()} components"
        )
    if image.GetPixelID() in COMPLEX:
        raise UserError(f"{name}: found {image.GetPixelIDTypeAsString()}, expected real numbers")
    if min(image.GetSize()) < 2:
        raise UserError(f"{name}: expected at least 2 voxels a side, found {image.GetSize()}")


def check_output(path: str | Path) -> Path:
    """Give the path if an image can be written there: known format, folder made."""
    path = Path(path)
    if not path.name.endswith(FORMATS):
        raise UserError(f"{path}: expected a name that ends in {', '.join(FORMATS)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def write_image(image: sitk.Image, path: str | Path) -> None:
    """Write aside, then rename, so that ``path`` never holds half an image."""
    path = check_output(path)
    aside = path.with_name(f".partial-{os.getpid()}-{path.name}")
    try:
        sitk.WriteImage(image, str(aside), useCompression=path.name.endswith(".gz"))
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def canonical(image: sitk.Image) -> sitk.Image:
    """Permute and flip axes to RAS+; oblique directions stay, no voxel is interpolated."""
    order = sitk.DICOMOrientImageFilter()
    order.SetDesiredCoordinateOrientation(ORIENTATION)
    return order.Execute(image)


def normalise(array: np.ndarray, name: str) -> np.ndarray:
    """Map the .1 and 99.9 percentiles to 0 and 1 and clamp the rest (paper, section 3)."""
    low, high = np.percentile(array, PERCENTILES)
    if not (np.isfinite(low) and np.isfinite(high) and high > low):
        raise UserError(
            f"{name}: the percentiles {PERCENTILES} are {low:g} and {high:g}; expected an image "
            "that is finite and not constant"
        )
    scaled = (array.astype(np.float32) - np.float32(low)) / np.float32(high - low)
    return np.clip(scaled, 0, 1)


def check_unit_range(array: np.ndarray, name: str) -> np.ndarray:
    """Give an image in [0, 1] as float32, or raise UserError."""
    low, high = float(array.min()), float(array.max())
    if not (low >= -1e-3 and high <= 1 + 1e-3):
        raise UserError(
            f"{name}: expected intensities in [0, 1], found {low:g} to {high:g}; let them be "
            "normalised, or normalise the image first"
        )
    return array.astype(np.float32)


def axis_weights(voxels: int, target: int) -> np.ndarray:
    """Give the weights ``(target, voxels)`` that resample one axis over the same extent.

    Down-sampling averages by area, so nothing aliases; up-sampling interpolates linearly, constant
    beyond the outermost voxel centres.
    """
    step = voxels / target
    source = np.arange(voxels)
    if step >= 1:
        edges = step * np.arange(target + 1)
        upper = np.minimum(edges[1:, None], source + 1)
        lower = np.maximum(edges[:-1, None], source)
        return (np.clip(upper - lower, 0, None) / step).astype(np.float32)
    centres = np.clip(step * (np.arange(target) + 0.5) - 0.5, 0, voxels - 1)
    return np.clip(1 - np.abs(centres[:, None] - source), 0, None).astype(np.float32)


def resample_by_area(array: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Resample an array ``(D, H, W)`` to another shape over the same field of view, float32."""
    array = array.astype(np.float32)
    for axis, target in enumerate(shape):
        if array.shape[axis] != target:
            weights = axis_weights(array.shape[axis], target)
            array = np.moveaxis(np.tensordot(weights, array, axes=(1, axis)), 0, axis)
    return np.ascontiguousarray(array)


def to_grid(
    image: sitk.Image, shape: Sequence[int], name: str, normalised: bool = False
) -> np.ndarray:
    """Bring an image to a network's grid.

    Parameters
    ----------
    image
        Scalar 3D image with any header.
    shape
        (D, H, W) = (z, y, x) of the grid after reorientation to RAS+.
    name
        What to call the image in messages.
    normalised
        Whether intensities are in [0, 1] already and shall stay as they are.

    Returns
    -------
    numpy.ndarray
        float32 ``(D, H, W)`` in [0, 1].
    """
    array = sitk.GetArrayFromImage(canonical(image))
    array = check_unit_range(array, name) if normalised else normalise(array, name)
    return resample_by_area(array, shape)
