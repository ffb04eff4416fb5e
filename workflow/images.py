"""Reading and writing of images: any format in, NIfTI out, nothing half-written."""

from __future__ import annotations

from pathlib import Path

import SimpleITK as sitk

from avsm.files import written_aside
from avsm.images import COMPLEX, FORMATS, NIFTI, UNREADABLE, check_length
from workflow.dicom import read_series
from workflow.errors import DataError


def read_image(path: str | Path) -> sitk.Image:
    """Read a 3D image: NIfTI, MHA/MHD, NRRD, or a folder holding one DICOM series.

    Raises
    ------
    DataError
        If the file is missing, of no known format, cut short, not 3D, or complex-valued.
    """
    path = Path(path)
    if not path.exists():
        raise DataError(f"{path}: no such file or folder")
    try:
        if path.name.endswith(NIFTI):
            check_length(path)
        image = sitk.ReadImage(read_series(path).files if path.is_dir() else str(path))
    except UNREADABLE as error:
        reason = str(error).strip().splitlines()[-1]
        raise DataError(
            f"{path}: cannot be read as an image ({reason}). Expected a whole file of "
            f"{', '.join(FORMATS)} or a DICOM folder: check it, or fetch it again."
        ) from error
    if image.GetDimension() != 3:
        raise DataError(f"{path}: found {image.GetDimension()} dimensions, expected 3")
    if image.GetPixelID() in COMPLEX:
        raise DataError(f"{path}: found {image.GetPixelIDTypeAsString()}, expected real numbers")
    return image


def write_image(image: sitk.Image, path: str | Path) -> None:
    """Write aside, then rename, so that `path` never holds half an image."""
    with written_aside(path) as aside:
        sitk.WriteImage(image, str(aside))
