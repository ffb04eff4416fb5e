"""Reading and writing of images: any format in, NIfTI out, nothing half-written."""

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

from workflow.dicom import read_series
from workflow.errors import DataError
from workflow.files import written_aside

CHUNK_BYTES = 1 << 22
UNREADABLE = (
    RuntimeError, OSError, EOFError, zlib.error, ImageFileError, HeaderDataError, WrapStructError,
)  # fmt: skip
FORMATS = (".nii", ".nii.gz", ".mha", ".mhd", ".nrrd")


def read_image(path: str | Path) -> sitk.Image:
    """Read a 3D image: NIfTI, MHA/MHD, NRRD, or a folder holding one DICOM series.

    Raises
    ------
    DataError
        If the file is missing, of no known format, cut short, or not 3D.
    """
    path = Path(path)
    if not path.exists():
        raise DataError(f"{path}: no such file or folder")
    try:
        if path.name.endswith((".nii", ".nii.gz")):
            _check_length(path)
        image = sitk.ReadImage(read_series(path).files if path.is_dir() else str(path))
    except UNREADABLE as error:
        reason = str(error).strip().splitlines()[-1]
        raise DataError(
            f"{path}: cannot be read as an image ({reason}). Expected a whole file of "
            f"{', '.join(FORMATS)} or a DICOM folder: check it, or fetch it again."
        ) from error
    if image.GetDimension() != 3:
        raise DataError(f"{path}: found {image.GetDimension()} dimensions, expected 3")
    return image


def _check_length(path: Path) -> None:
    """Raise `OSError` or `EOFError` if a NIfTI file is not as long as its header says.

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


def write_image(image: sitk.Image, path: str | Path) -> None:
    """Write aside, then rename, so that `path` never holds half an image."""
    with written_aside(path) as aside:
        sitk.WriteImage(image, str(aside))


def canonical(image: sitk.Image) -> sitk.Image:
    """Permute and flip axes to NIfTI's RAS+ (x to the right, y anterior, z superior).

    Oblique directions stay: only whole axes move, so no voxel is interpolated.
    """
    order = sitk.DICOMOrientImageFilter()
    # ITK names an orientation by where axes point *to*, in LPS letters: RAS+ of NIfTI is "RAS".
    order.SetDesiredCoordinateOrientation("RAS")
    return order.Execute(image)


def like(array: np.ndarray, grid: sitk.Image) -> sitk.Image:
    """Return a scalar image of `array` ``(z, y, x)`` with the geometry of `grid`."""
    image = sitk.GetImageFromArray(array)
    image.CopyInformation(grid)
    return image
