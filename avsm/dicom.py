"""DICOM: a folder that holds one series, or one file with several frames.

What a header says is held against its file, and every plane against the others: a stack that is
no box of voxels at equal distances is an error before a voxel is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import SimpleITK as sitk
from pydicom.dataset import Dataset

from avsm.dicom_file import DicomFile, numbers, open_file, read_voxels
from avsm.errors import UserError, raise_all
from avsm.volume import TOLERANCE, Volume, rotation_and_spacing

GAP_TOLERANCE = 0.1  # part of the distance of slices by which one distance may differ


class Grid(NamedTuple):
    """Where voxels lie, as SimpleITK says it: x fastest, mm, LPS, direction by rows."""

    size: tuple[int, ...]
    spacing: tuple[float, ...]
    origin: tuple[float, ...]
    direction: tuple[float, ...]

    @classmethod
    def of(cls, header: sitk.ImageFileReader) -> Grid:
        """Return the grid of a file whose header was read."""
        return cls(header.GetSize(), header.GetSpacing(), header.GetOrigin(), header.GetDirection())


@dataclass(frozen=True)
class _Plane:
    """A frame of a file, and where it lies."""

    file: DicomFile
    frame: int
    name: str
    size: tuple[int, int]  # columns, rows
    spacing: tuple[float, float]  # along a row, along a column, mm
    position: np.ndarray  # of the first voxel, mm, LPS
    axes: np.ndarray  # (2, 3): along a row, along a column
    scale: tuple[float, float]  # slope and intercept

    @property
    def steps(self) -> np.ndarray:
        """From a voxel to the next, (2, 3): along a row, along a column, mm."""
        return self.axes * np.array(self.spacing)[:, None]

    def __str__(self) -> str:
        sides, axes = np.round(self.spacing, 4).tolist(), np.round(self.axes, 4).tolist()
        return f"{self.size} pixels of {sides} mm along {axes}"


@dataclass(frozen=True)
class Series:
    """The planes of a series in spatial order, their common grid, and what was odd."""

    planes: tuple[_Plane, ...]
    grid: Grid
    axes: np.ndarray  # as in ``Volume``
    notes: tuple[str, ...]


def read_dicom(path: Path) -> Volume:
    """Read a folder's series, or a file with several frames; errors as of ``read_series``."""
    series = read_series(path)
    voxels = {}
    for file in {id(plane.file): plane.file for plane in series.planes}.values():
        try:
            voxels[file.path] = read_voxels(file)
        except UserError as error:
            raise UserError(f"{path}: {file.path.name}: {error}") from error
    planes = [voxels[plane.file.path][plane.frame] for plane in series.planes]
    if any(plane.scale != (1, 0) for plane in series.planes):
        scales = [plane.scale for plane in series.planes]
        planes = [
            p * np.float64(slope) + intercept
            for p, (slope, intercept) in zip(planes, scales, strict=True)
        ]
    return Volume(np.stack(planes), series.axes, np.array(series.grid.origin), series.notes)


def read_series(path: str | Path) -> Series:
    """Read the headers of a folder's DICOM files (others in it are noted), or of one file.

    Raises
    ------
    UserError
        If a file is cut short or claims more pixels than it holds, is no grey image or does not say
        where it lies, or if the files are not one series of equal slices at equal distances.
    """
    path = Path(path)
    files = [path]
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if p.is_file() and not p.name.startswith("."))
    planes, faults, others = [], [], []
    for file in files:
        try:
            opened = None if file.name == "DICOMDIR" else open_file(file)
            planes += _planes(opened) if opened else []
            others += [] if opened or file.name == "DICOMDIR" else [file]
        except (UserError, OSError) as error:
            faults.append(f"{file.name}: {error}")
    suffixes = {_suffix(plane.file.path) for plane in planes}
    faults += [
        f"{file.name}: named as the slices are, but no DICOM image; move it away if it is none"
        for file in others
        if _suffix(file) in suffixes
    ]
    raise_all(f"{path}: faulty DICOM files; mend them, or fetch them again:", faults)
    found = len({str(plane.file.header.get("SeriesInstanceUID", "")) for plane in planes})
    if found != 1:
        raise UserError(f"{path}: found {found} DICOM series, expected exactly one")
    if len(planes) == 1:
        hint = "" if path.is_dir() else ": name the folder that holds its series"
        raise UserError(f"{path}: found one DICOM slice, expected a 3D image{hint}")
    notes = (
        [f"left out, as they are no DICOM images: {', '.join(file.name for file in others)}"]
        if others
        else []
    )
    return _stack(planes, path, notes)


def _suffix(path: Path) -> str:
    return path.suffix.lower().strip("0123456789")


def _planes(file: DicomFile) -> list[_Plane]:
    """Say where each frame of a file lies."""
    header, planes = file.header, []
    if "ModalityLUTSequence" in header:
        raise UserError("found a ModalityLUTSequence, expected RescaleSlope and RescaleIntercept")
    try:
        shared = [*header.get("SharedFunctionalGroupsSequence", [])]
        groups = [*header.get("PerFrameFunctionalGroupsSequence", [])]
        if groups and len(groups) != file.frames:
            raise UserError(f"found {file.frames} frames and {len(groups)} descriptions of frames")
        for frame in range(file.frames):
            own = [*groups[frame : frame + 1], *shared]
            position, orientation, spacing = (
                np.array(numbers(_group(own, name, header), key, count))
                for name, key, count in (
                    ("PlanePositionSequence", "ImagePositionPatient", 3),
                    ("PlaneOrientationSequence", "ImageOrientationPatient", 6),
                    ("PixelMeasuresSequence", "PixelSpacing", 2),
                )
            )
            axes = orientation.reshape(2, 3)
            if file.frames > 1 and not groups:
                step = numbers(header, "SpacingBetweenSlices", 1)[0]
                position = position + frame * step * np.cross(*axes)
            values = _group(own, "PixelValueTransformationSequence", header)
            scale = tuple(
                numbers(values, key, 1)[0] if values.get(key) not in (None, "") else usual
                for key, usual in (("RescaleSlope", 1.0), ("RescaleIntercept", 0.0))
            )
            size = (int(header.Columns), int(header.Rows))
            off = np.abs(np.linalg.norm(axes, axis=1) - 1) * size
            if not (spacing.min() > 0 and off.max() <= TOLERANCE and scale[0]):
                raise UserError(
                    f"found PixelSpacing {spacing.tolist()}, ImageOrientationPatient "
                    f"{orientation.tolist()} and RescaleSlope {scale[0]}; expected positive sides, "
                    "axes of length 1 and a slope"
                )
            name = f"{file.path.name}, frame {frame + 1}" if file.frames > 1 else file.path.name
            sides = (float(spacing[1]), float(spacing[0]))
            planes.append(_Plane(file, frame, name, size, sides, position, axes, scale))
    except UserError:
        raise
    except Exception as error:  # whatever a damaged value makes pydicom raise
        raise UserError(f"not a readable DICOM image ({error})") from error
    return planes


def _group(own: Sequence[Dataset], name: str, header: Dataset) -> Dataset:
    """Give what functional groups say under a name, a frame's own first; else the header."""
    return next((each[name].value[0] for each in own if each.get(name)), header)


def _stack(planes: Sequence[_Plane], path: Path, notes: list[str]) -> Series:
    """Order planes along their normal, and give the grid that they make up."""
    first = planes[0]
    most = TOLERANCE * min(first.spacing) / np.array(first.size)  # to be so far off in a corner
    unlike = [
        f"{each.name}: {each}"
        for each in planes
        if each.size != first.size or (np.abs(each.steps - first.steps).max(axis=1) > most).any()
    ]
    raise_all(f"{path}: slices unlike {first.name} ({first}):", unlike)
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
    raise_all(f"{path}: {len(planes)} slices, some missing or twice:", gaps)
    step = float(places[-1] @ normal - places[0] @ normal) / len(steps)
    spacing = np.array([*first.spacing, step])
    axes = np.stack([*first.axes, normal], axis=1) * spacing
    # Where each slice would be in a box, in voxels of its own frame.
    off = (places - places[0] - np.arange(len(places))[:, None] * axes[:, 2]) @ (axes / spacing**2)
    worst = np.abs(off).max(axis=0)
    if worst[:2].max() > TOLERANCE:
        raise UserError(
            f"{path}: its slices shift in their own plane, by up to {worst[:2].max():.2f} voxels "
            "(a tilted gantry?): expected a box; resample it to one"
        )
    if worst[2] > TOLERANCE:
        raise UserError(
            f"{path}: the distances of its slices vary: one is {worst[2]:.2f} of the mean distance "
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
    grid = Grid(size, *(tuple(map(float, v)) for v in (spacing, places[0], rotation.ravel())))
    return Series(tuple(ordered), grid, axes, tuple(notes))
