"""Images in and out of files, and their axes."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import nibabel
import numpy as np
import SimpleITK as sitk
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError

from avsm.errors import UserError
from avsm.files import written_aside

ORIENTATION = "RAS"  # as in NIfTI: ITK, too, names an orientation by where the axes point to
NIFTI = (".nii", ".nii.gz")
FORMATS = (*NIFTI, ".mha", ".mhd", ".nrrd")
WRITTEN = (*NIFTI, ".mha", ".nrrd")  # .mhd is two files, which cannot be renamed at once
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
    image = _read(path, f"a 3D image ({', '.join(FORMATS)})", "an image")
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
    field = _read(path, "a displacement field", "a displacement field")
    if field.GetDimension() != 3 or field.GetNumberOfComponentsPerPixel() != 3:
        raise UserError(
            f"{path}: expected a displacement field of 3 dimensions and 3 components, found "
            f"{field.GetDimension()} and {field.GetNumberOfComponentsPerPixel()}"
        )
    if bad := count_not_finite(field, path):
        raise UserError(f"{path}: found {bad} numbers that are NaN or infinite")
    return field


def _read(path: str | Path, expected: str, kind: str) -> sitk.Image:
    """Read a whole file, whatever its image is; messages say what was expected."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file; expected {expected}")
    try:
        if path.name.endswith(NIFTI):
            check_length(path)
        return sitk.ReadImage(str(path))
    except UNREADABLE as error:
        reason = str(error).strip().splitlines()[-1]
        raise UserError(f"{path}: cannot be read as {kind} ({reason})") from error


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
    if not path.name.endswith(WRITTEN):
        raise UserError(f"{path}: expected a name that ends in {', '.join(WRITTEN)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def write_image(image: sitk.Image, path: str | Path) -> None:
    """Write an image whole, or not at all."""
    path = check_output(path)
    with written_aside(path) as aside:
        sitk.WriteImage(image, str(aside), useCompression=path.name.endswith(".gz"))


def canonical(image: sitk.Image) -> sitk.Image:
    """Permute and flip axes to RAS+; oblique directions stay, no voxel is interpolated."""
    order = sitk.DICOMOrientImageFilter()
    order.SetDesiredCoordinateOrientation(ORIENTATION)
    return order.Execute(image)
