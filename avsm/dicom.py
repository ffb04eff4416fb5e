"""DICOM: a folder that holds one series, or one file with several frames.

Headers are held against files and planes against one another before a voxel is read.
"""

import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import pydicom
import SimpleITK as sitk
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames

from avsm.errors import UserError, raise_all
from avsm.volume import TOLERANCE, Volume, rotation_and_spacing

GAP_TOLERANCE = 0.1  # part of the distance of slices by which one distance may differ
PIXELS = (0x7FE0, 0x0010)
DEFLATED = "1.2.840.10008.1.2.1.99"
UNDEFINED = 0xFFFFFFFF  # length of compressed pixels
PLAIN = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2")
PACKED = ("1.2.840.10008.1.2.4.", "1.2.840.10008.1.2.5")  # JPEG and its like, RLE
LAYOUT = (
    "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation",
    "SamplesPerPixel",
)  # fmt: skip
# Of a file whose compressed pixels GDCM decodes: nothing else that it could make use of.
DECODED = (
    *LAYOUT, "NumberOfFrames", "PhotometricInterpretation", "SOPClassUID", "SOPInstanceUID",
    "PixelData",
)  # fmt: skip


class Grid(NamedTuple):
    """Where voxels lie, as SimpleITK says it: x fastest, mm, LPS, direction by rows."""

    size: tuple[int, ...]
    spacing: tuple[float, ...]
    origin: tuple[float, ...]
    direction: tuple[float, ...]


class DicomFile(NamedTuple):
    """What a file's header says of its voxels, and where they are in it."""

    path: Path
    header: Dataset
    pixels: int | bytes | None  # where they begin, or themselves; None: compressed
    kind: np.dtype
    frames: int


class Plane(NamedTuple):
    """A frame of a file, and where it lies."""

    file: DicomFile
    frame: int
    size: tuple[int, int]  # columns, rows
    spacing: np.ndarray  # along a row, along a column, mm
    position: np.ndarray  # of the first voxel, mm, LPS
    axes: np.ndarray  # (2, 3): along a row, along a column
    scale: tuple[float, float]  # slope and intercept

    @property
    def name(self) -> str:
        """The file's name, with the frame's number if it has several."""
        name = self.file.path.name
        return f"{name}, frame {self.frame + 1}" if self.file.frames > 1 else name

    @property
    def steps(self) -> np.ndarray:
        """From a voxel to the next, (2, 3): along a row, along a column, mm."""
        return self.axes * self.spacing[:, None]

    def __str__(self) -> str:
        sides, axes = np.round(self.spacing, 4).tolist(), np.round(self.axes, 4).tolist()
        return f"{self.size} pixels of {sides} mm along {axes}"


class Series(NamedTuple):
    """The planes of a series in spatial order, their common grid, and what was odd."""

    planes: Sequence[Plane]
    grid: Grid
    axes: np.ndarray  # as in ``Volume``
    notes: tuple[str, ...]


def read_dicom(path: Path) -> Volume:
    """Read a folder's series, or a file with several frames; errors as of ``read_series``."""
    series = read_series(path)
    voxels = {}
    for file in {plane.file.path: plane.file for plane in series.planes}.values():
        try:
            voxels[file.path] = _read_voxels(file)
        except UserError as error:
            raise UserError(f"{file.path.name}: {error}") from error
    planes = [voxels[plane.file.path][plane.frame] for plane in series.planes]
    scales = [plane.scale for plane in series.planes]
    if any(scale != (1, 0) for scale in scales):
        planes = [p * np.float64(a) + b for p, (a, b) in zip(planes, scales, strict=True)]
    return Volume(np.stack(planes), series.axes, np.array(series.grid.origin), series.notes)


def read_series(path: Path) -> Series:
    """Read the headers of a folder's DICOM files (others in it are noted), or of one file.

    A UserError says what is cut short, no grey image or of no known place, or that the files are
    not one series of equal slices at equal distances.
    """
    files = [path]
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if p.is_file() and not p.name.startswith("."))
    planes, faults, others = [], [], []
    for file in files:
        if file.name == "DICOMDIR":
            continue
        try:
            frames = _frames(file)
            planes += frames
            others += [] if frames else [file]
        except (UserError, OSError) as error:
            faults.append(f"{file.name}: {error}")
    suffixes = {_suffix(plane.file.path) for plane in planes}
    faults += [
        f"{file.name}: named as the slices are, but no DICOM image; move it away if it is none"
        for file in others
        if _suffix(file) in suffixes
    ]
    raise_all("faulty DICOM files; mend them, or fetch them again:", faults)
    found = len({str(plane.file.header.get("SeriesInstanceUID", "")) for plane in planes})
    if found != 1:
        raise UserError(f"found {found} DICOM series, expected exactly one")
    if len(planes) == 1:
        hint = "" if path.is_dir() else ": name the folder that holds its series"
        raise UserError(f"found one DICOM slice, expected a 3D image{hint}")
    names = ", ".join(file.name for file in others)
    notes = [f"left out, as they are no DICOM images: {names}"] if others else []
    return _stack(planes, notes)


def _suffix(path: Path) -> str:
    return path.suffix.lower().strip("0123456789")


def _frames(path: Path) -> list[Plane]:
    """Read a file's header: its frames, and where they lie; none if it is no DICOM image."""
    with path.open("rb") as stream:
        known = stream.read(132)[128:] == b"DICM"
        stream.seek(0)
        try:
            header = pydicom.dcmread(stream, force=True, stop_before_pixels=True)
            known = known or "Rows" in header
            for later in ("SeriesInstanceUID", "SpacingBetweenSlices"):
                header.get(later)  # which converts it, here where its faults are told
            return _planes(_with_pixels(path, header, stream)) if known else []
        except UserError:
            raise
        except Exception as error:  # whatever a damaged file makes pydicom raise
            if not known:
                return []
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise UserError(f"not a readable DICOM image ({reason[-1]})") from error


def _with_pixels(path: Path, header: Dataset, stream: BinaryIO) -> DicomFile:
    """Find the pixels behind a header, and hold their length against it."""
    # A file without any meta header has DICOM's default.
    syntax = str(header.file_meta.get("TransferSyntaxUID", "" if header.file_meta else PLAIN[0]))
    if syntax not in (*PLAIN, DEFLATED) and not syntax.startswith(PACKED):
        raise UserError(f"found the transfer syntax '{syntax}', expected one of DICOM's for images")
    if syntax == DEFLATED:
        header = pydicom.dcmread(path)
        pixels, little = header.get("PixelData", b""), True
        length = left = len(pixels)
    else:
        implicit, little = header.original_encoding
        order = "little" if little else "big"
        head = stream.read(8 if implicit else 12)
        tag = tuple(int.from_bytes(head[at : at + 2], order) for at in (0, 2))
        if tag != PIXELS or not (implicit or head[4:6] in (b"OB", b"OW")):
            raise UserError("not a readable DICOM image (no pixels in it; is it cut short?)")
        length = int.from_bytes(head[4:] if implicit else head[8:], order)
        pixels = stream.tell()
        left = path.stat().st_size - pixels
    layout = (int(_numbers(header, key, 1)[0]) for key in LAYOUT)
    rows, columns, bits, stored, high, signed, samples = layout
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
    return DicomFile(path, header, None if compressed else pixels, kind, frames)


def _numbers(header: Dataset, key: str, count: int) -> list[float]:
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


def _planes(file: DicomFile) -> list[Plane]:
    """Say where each frame of a file lies."""
    header = file.header
    if "ModalityLUTSequence" in header:
        raise UserError("found a ModalityLUTSequence, expected RescaleSlope and RescaleIntercept")
    shared = [*header.get("SharedFunctionalGroupsSequence", [])]
    groups = [*header.get("PerFrameFunctionalGroupsSequence", [])]
    if groups and len(groups) != file.frames:
        raise UserError(f"found {file.frames} frames and {len(groups)} descriptions of frames")
    return [_plane(file, frame, groups[frame : frame + 1], shared) for frame in range(file.frames)]


def _plane(file: DicomFile, frame: int, own: list[Dataset], shared: list[Dataset]) -> Plane:
    """Say where a frame lies: by its own functional group, that of all frames, or the header."""

    def group(name: str) -> Dataset:
        found = (each[name].value[0] for each in (*own, *shared) if each.get(name))
        return next(found, file.header)

    position = np.array(_numbers(group("PlanePositionSequence"), "ImagePositionPatient", 3))
    turn = np.array(_numbers(group("PlaneOrientationSequence"), "ImageOrientationPatient", 6))
    spacing = np.array(_numbers(group("PixelMeasuresSequence"), "PixelSpacing", 2))
    axes = turn.reshape(2, 3)
    if file.frames > 1 and not own:
        step = _numbers(file.header, "SpacingBetweenSlices", 1)[0]
        position = position + frame * step * np.cross(*axes)
    values = group("PixelValueTransformationSequence")
    slope, intercept = (
        _numbers(values, key, 1)[0] if values.get(key) not in (None, "") else usual
        for key, usual in (("RescaleSlope", 1.0), ("RescaleIntercept", 0.0))
    )
    size = (int(file.header.Columns), int(file.header.Rows))
    off = np.abs(np.linalg.norm(axes, axis=1) - 1) * size
    if not (spacing.min() > 0 and off.max() <= TOLERANCE and slope):
        raise UserError(
            f"found PixelSpacing {spacing.tolist()}, ImageOrientationPatient {turn.tolist()} and "
            f"RescaleSlope {slope}; expected positive sides, axes of length 1 and a slope"
        )
    return Plane(file, frame, size, spacing[::-1], position, axes, (slope, intercept))


def _stack(planes: Sequence[Plane], notes: list[str]) -> Series:
    """Order planes along their normal, and give the grid that they make up."""
    first = planes[0]
    most = TOLERANCE * min(first.spacing) / np.array(first.size)  # to be so far off in a corner
    unlike = [
        f"{each.name}: {each}"
        for each in planes
        if each.size != first.size or (np.abs(each.steps - first.steps).max(axis=1) > most).any()
    ]
    raise_all(f"slices unlike {first.name} ({first}):", unlike)
    normal = np.cross(*first.axes)
    ordered = sorted(planes, key=lambda each: float(each.position @ normal))
    places = np.array([each.position for each in ordered])
    steps = np.diff(places @ normal)
    usual = float(np.median(steps))
    gaps = [
        f"{a.name} and {b.name}: {step:.2f} mm apart, others {usual:.2f} mm"
        for a, b, step in zip(ordered, ordered[1:], steps, strict=False)
        if usual <= 0 or abs(step - usual) > GAP_TOLERANCE * usual
    ]
    raise_all(f"{len(planes)} slices, some missing or twice:", gaps)
    step = float(places[-1] @ normal - places[0] @ normal) / len(steps)
    spacing = np.array([*first.spacing, step])
    axes = np.stack([*first.axes, normal], axis=1) * spacing
    # Where each slice would be in a box, in voxels of its own frame.
    off = (places - places[0] - np.arange(len(places))[:, None] * axes[:, 2]) @ (axes / spacing**2)
    worst = np.abs(off).max(axis=0)
    if worst[:2].max() > TOLERANCE:
        raise UserError(
            f"its slices shift in their own plane, by up to {worst[:2].max():.2f} voxels "
            "(a tilted gantry?): expected a box; resample it to one"
        )
    if worst[2] > TOLERANCE:
        raise UserError(
            f"the distances of its slices vary: one is {worst[2]:.2f} of the mean distance "
            f"({step:.3f} mm) from where equal distances put it"
        )
    claimed = first.file.header.get("SpacingBetweenSlices")
    if claimed and abs(abs(float(claimed)) - step) > GAP_TOLERANCE * step:
        notes.append(
            f"SpacingBetweenSlices is {float(claimed):g} mm, but positions are {step:g} mm apart: "
            "positions were used; are slices missing?"
        )
    size = (*first.size, len(ordered))
    rotation, _ = rotation_and_spacing(axes, places[0], size)
    grid = Grid(size, *(tuple(v.ravel().tolist()) for v in (spacing, places[0], rotation)))
    return Series(ordered, grid, axes, tuple(notes))


def _read_voxels(file: DicomFile) -> np.ndarray:
    """Read a file's stored values, ``(frames, rows, columns)``."""
    shape = (file.frames, int(file.header.Rows), int(file.header.Columns))
    if file.pixels is None:
        array = _decoded(file, shape)
    elif isinstance(file.pixels, bytes):
        array = np.frombuffer(file.pixels, file.kind, math.prod(shape))
    else:
        array = np.fromfile(file.path, file.kind, math.prod(shape), offset=file.pixels)
    stored, signed = int(file.header.BitsStored), file.kind.kind == "i"
    low, high = (-(1 << stored - 1), (1 << stored - 1) - 1) if signed else (0, (1 << stored) - 1)
    if array.min() < low or array.max() > high:
        raise UserError(f"found values of more than its {stored} bits")
    return array.reshape(shape).astype(file.kind.newbyteorder("="), copy=False)


def _decoded(file: DicomFile, shape: tuple[int, ...]) -> np.ndarray:
    """Decode compressed pixels by GDCM, which is shown nothing but them and what they are."""
    try:
        whole = pydicom.dcmread(file.path, force=True)
        frames = [*generate_frames(whole.PixelData, number_of_frames=file.frames)]
        syntax = whole.file_meta.TransferSyntaxUID
        ends = [frame.rstrip(b"\0").endswith(b"\xff\xd9") for frame in frames]  # as JPEG does
        if len(frames) != file.frames or (syntax.startswith(PACKED[0]) and not all(ends)):
            raise UserError("its compressed pixels are cut short")
        bare = Dataset({whole[key].tag: whole[key] for key in DECODED if key in whole})
        bare.file_meta = whole.file_meta
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / "pixels.dcm"
            bare.save_as(copy, enforce_file_format=True)
            array = sitk.GetArrayFromImage(sitk.ReadImage(str(copy), imageIO="GDCMImageIO"))
    except UserError:
        raise
    except Exception as error:  # whatever a damaged stream makes pydicom or GDCM raise
        raise UserError(f"its pixels cannot be decoded ({str(error).splitlines()[-1]})") from error
    if array.size != math.prod(shape):
        raise UserError(f"found {array.shape} pixels when decoded, expected {shape}")
    return array
