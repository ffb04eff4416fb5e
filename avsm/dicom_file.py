"""One DICOM file: what its header says of its voxels, held against what is there."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import SimpleITK as sitk
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames

from avsm.errors import UserError

PIXELS = (0x7FE0, 0x0010)
DEFLATED = "1.2.840.10008.1.2.1.99"
UNDEFINED = 0xFFFFFFFF  # length of compressed pixels
PLAIN = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2")
PACKED = ("1.2.840.10008.1.2.4.", "1.2.840.10008.1.2.5")  # JPEG and its like, RLE
JPEG_END = b"\xff\xd9"
LAYOUT = (
    "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation",
    "SamplesPerPixel",
)  # fmt: skip
# Of a file whose compressed pixels GDCM decodes: nothing else that it could make use of.
DECODED = (
    *LAYOUT, "NumberOfFrames", "PhotometricInterpretation", "SOPClassUID", "SOPInstanceUID",
    "PixelData",
)  # fmt: skip


@dataclass(frozen=True)
class DicomFile:
    """What a file's header says of its voxels, and where they are in it."""

    path: Path
    header: Dataset
    pixels: int | bytes  # where they begin, or themselves
    kind: np.dtype
    frames: int
    compressed: bool


def open_file(path: Path) -> DicomFile | None:
    """Read a file's header; None if it is no DICOM image."""
    with path.open("rb") as stream:
        marked = stream.read(132)[128:] == b"DICM"
        stream.seek(0)
        try:
            header = pydicom.dcmread(stream, force=True, stop_before_pixels=True)
            file = _with_pixels(path, header, stream) if marked or "Rows" in header else None
        except UserError:
            raise
        except Exception as error:  # whatever a damaged file makes pydicom raise
            if not marked:
                return None
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise UserError(f"not a readable DICOM image ({reason[-1]})") from error
    return file


def _with_pixels(path: Path, header: Dataset, stream: Any) -> DicomFile:
    """Find the pixels behind a header, and hold their length against it."""
    # A file without any meta header has DICOM's default.
    syntax = str(header.file_meta.get("TransferSyntaxUID", "" if header.file_meta else PLAIN[0]))
    if syntax not in (*PLAIN, DEFLATED) and not syntax.startswith(PACKED):
        raise UserError(f"found the transfer syntax '{syntax}', expected one of DICOM's for images")
    if syntax == DEFLATED:
        header = pydicom.dcmread(path)
        pixels, length = header.get("PixelData", b""), len(header.get("PixelData", b""))
        left, little = length, True
    else:
        implicit, little = header.original_encoding
        order = "little" if little else "big"
        head = stream.read(8 if implicit else 12)
        group, element = (int.from_bytes(head[at : at + 2], order) for at in (0, 2))
        if (group, element) != PIXELS or not (implicit or head[4:6] in (b"OB", b"OW")):
            raise UserError("not a readable DICOM image (no pixels in it; is it cut short?)")
        length = int.from_bytes(head[4:] if implicit else head[8:], order)
        pixels = stream.tell()
        left = path.stat().st_size - pixels
    rows, columns, bits, stored, high, signed, samples = (
        int(numbers(header, key, 1)[0]) for key in LAYOUT
    )
    frames = int(header.get("NumberOfFrames") or 1)
    colours = str(header.get("PhotometricInterpretation", "")) or "none"
    if samples != 1 or colours != "MONOCHROME2":
        raise UserError(
            f"found {samples} samples a pixel, photometric interpretation {colours}; expected one "
            "grey value of MONOCHROME2" + (", black is 0" if colours == "MONOCHROME1" else "")
        )
    if bits not in (8, 16, 32) or not 1 <= stored <= bits or high != stored - 1 or signed > 1:
        raise UserError(f"found {stored} of {bits} bits a pixel, the highest the {high}th")
    claimed = rows * columns * frames * bits // 8
    compressed = syntax.startswith(PACKED)
    if compressed != (length == UNDEFINED):
        raise UserError(f"found {length} bytes of pixels in the transfer syntax {syntax}")
    whole = compressed or (claimed <= length <= claimed + claimed % 2 and length <= left)
    if min(rows, columns, frames) < 1 or not whole:
        raise UserError(
            f"its header claims {columns}x{rows} pixels"
            + (f" in {frames} frames" if frames != 1 else "")
            + f", {claimed} bytes, but the file has {min(length, left)}"
        )
    kind = np.dtype(f"{'<' if little else '>'}{'i' if signed else 'u'}{bits // 8}")
    return DicomFile(path, header, pixels, kind, frames, compressed)


def numbers(header: Dataset, key: str, count: int) -> list[float]:
    """Give a value's numbers; UserError if they are missing, not as many or not finite."""
    value = header.get(key)
    values = [] if value is None else [value] if np.isscalar(value) else [*value]
    try:
        numbers = [float(each) for each in values]
    except (TypeError, ValueError):
        numbers = []
    if len(numbers) != count or not np.isfinite(numbers).all():
        found = "nothing" if value in (None, "") or not values else value
        raise UserError(f"found {found} for {key}, expected {count} number{'s' * (count > 1)}")
    return numbers


def read_voxels(file: DicomFile) -> np.ndarray:
    """Read a file's stored values, ``(frames, rows, columns)``."""
    shape = (file.frames, int(file.header.Rows), int(file.header.Columns))
    if file.compressed:
        array = _decoded(file, shape)
    elif isinstance(file.pixels, bytes):
        array = np.frombuffer(file.pixels, file.kind, int(np.prod(shape))).reshape(shape)
    else:
        array = np.fromfile(file.path, file.kind, int(np.prod(shape)), offset=file.pixels)
        array = array.reshape(shape)
    stored, signed = int(file.header.BitsStored), file.kind.kind == "i"
    low, high = (-(1 << stored - 1), (1 << stored - 1) - 1) if signed else (0, (1 << stored) - 1)
    if array.min() < low or array.max() > high:
        raise UserError(f"found values of more than its {stored} bits")
    return array.astype(file.kind.newbyteorder("="), copy=False)


def _decoded(file: DicomFile, shape: tuple[int, ...]) -> np.ndarray:
    """Decode compressed pixels by GDCM, which is shown nothing but them and what they are."""
    try:
        whole = pydicom.dcmread(file.path, force=True)
        frames = [*generate_frames(whole.PixelData, number_of_frames=file.frames)]
        syntax = whole.file_meta.TransferSyntaxUID
        ends = [frame.rstrip(b"\0").endswith(JPEG_END) for frame in frames]
        if len(frames) != file.frames or (syntax.startswith(PACKED[0]) and not all(ends)):
            raise UserError("its compressed pixels are cut short")
        bare = Dataset()
        for key in DECODED:
            if key in whole:
                bare.add(whole[key])
        bare.file_meta = whole.file_meta
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / "pixels.dcm"
            bare.save_as(copy, enforce_file_format=True)
            array = sitk.GetArrayFromImage(sitk.ReadImage(str(copy), imageIO="GDCMImageIO"))
    except UserError:
        raise
    except Exception as error:  # whatever a damaged stream makes pydicom or GDCM raise
        raise UserError(f"its pixels cannot be decoded ({str(error).splitlines()[-1]})") from error
    if array.reshape(-1).size != np.prod(shape):
        raise UserError(f"found {array.shape} pixels when decoded, expected {shape}")
    return array.reshape(shape)
