"""Images in and out of files, and their axes: the one gate through which every file comes.

A file is refused, read right, or read with a warning, by what it holds, whatever its name.
"""

import logging
import zlib
from pathlib import Path

import SimpleITK as sitk
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError

from avsm.dicom import read_dicom
from avsm.errors import UserError
from avsm.files import stem_and_suffix, written_aside
from avsm.nifti import is_nifti, read_nifti
from avsm.plain import read_meta, read_nrrd
from avsm.volume import Volume, opened, sibling

log = logging.getLogger(__name__)
ORIENTATION = "RAS"  # as in NIfTI: ITK, too, names an orientation by where the axes point to
NIFTI = (".nii", ".nii.gz")
FORMATS = (*NIFTI, ".hdr", ".mha", ".mhd", ".nrrd", ".nhdr")
WRITTEN = (*NIFTI, ".mha", ".nrrd")  # .mhd is two files, which cannot be renamed at once
UNREADABLE = (
    OSError, EOFError, ValueError, MemoryError, OverflowError, zlib.error, ImageFileError,
    HeaderDataError, WrapStructError,
)  # fmt: skip
HEAD_BYTES = 1 << 12


def read_image(path: str | Path, notes: list[str] | None = None) -> sitk.Image:
    """Read a scalar 3D image: NIfTI, MetaImage, NRRD, a DICOM series' folder or multi-frame file.

    What was odd is added to ``notes``, or logged. A UserError says that the file is missing,
    damaged or contradicts itself, or does not hold one finite number a voxel of a 3D image.
    """
    image = _read(path, "an image", notes)
    check_image(image, str(path))
    return image


def read_field(path: str | Path) -> sitk.Image:
    """Read a displacement field, a 3D image of three finite components, mm, LPS; else UserError."""
    field = _read(path, "a displacement field", None)
    if field.GetNumberOfComponentsPerPixel() != 3:
        raise UserError(
            f"{path}: expected a displacement field of 3 dimensions and 3 components, found "
            f"{field.GetDimension()} and {field.GetNumberOfComponentsPerPixel()}"
        )
    return field


def _read(path: str | Path, kind: str, notes: list[str] | None) -> sitk.Image:
    path = Path(path)
    expected = f"{', '.join(FORMATS)}, or a folder with one DICOM series"
    if not (path.is_file() or path.is_dir()):
        raise UserError(f"{path}: no such file or folder; expected {kind} ({expected})")
    try:
        volume = read_dicom(path) if path.is_dir() else _read_file(path, expected)
        image = volume.image()
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except UNREADABLE as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        raise UserError(
            f"{path}: cannot be read as {kind} ({reason}); check it, or fetch it again"
        ) from error
    for note in volume.notes:
        if notes is None:
            log.warning("%s: %s", path, note)
        else:
            notes.append(f"{path}: {note}")
    return image


def _read_file(path: Path, expected: str) -> Volume:
    """Read a file by what it begins with."""
    with opened(path) as stream:
        head = stream.read(HEAD_BYTES)
        stream.seek(0)
        if is_nifti(head):
            return read_nifti(path, stream)
        if head.startswith(b"NRRD000"):
            return read_nrrd(path, stream)
        if b"NDims" in head and b"=" in head:
            return read_meta(path, stream)
    if stem_and_suffix(path)[1] == "img":
        header = sibling(path, "hdr")
        with opened(header) as stream:
            return read_nifti(header, stream)
    try:
        return read_dicom(path)
    except UserError as error:
        if head[128:132] == b"DICM" or "found 0 DICOM series" not in str(error):
            raise
        raise UserError(f"cannot be read as an image: expected {expected}") from error


def check_image(image: sitk.Image, name: str) -> None:
    """Raise UserError unless an image is 3D, scalar and at least two voxels a side."""
    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
        raise UserError(
            f"{name}: expected a scalar 3D image, found {image.GetDimension()} dimensions and "
            f"{image.GetNumberOfComponentsPerPixel()} components"
        )
    if min(image.GetSize()) < 2:
        raise UserError(f"{name}: expected at least 2 voxels a side, found {image.GetSize()}")


def check_output(path: str | Path) -> Path:
    """Give the path if an image can be written there: known format, folder made."""
    path = Path(path)
    if not path.name.endswith(WRITTEN):
        raise UserError(f"{path}: expected a name that ends in {', '.join(WRITTEN)}")
    if path.is_dir():
        raise UserError(f"{path}: is a folder, expected the name of a file")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{path}: its folder cannot be made ({error.strerror})") from error
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
