"""A folder that holds one DICOM series: its slices in order and its grid, from headers alone.

ITK reads a folder whose headers lie about the size, or which lacks slices, without a word or with
a warning at most; here such a folder is an error before any voxel is read.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import SimpleITK as sitk

from workflow.errors import DataError, raise_all

ROWS, COLUMNS, BITS, SAMPLES = "0028|0010", "0028|0011", "0028|0100", "0028|0002"
SERIES, POSITION, ORIENTATION = "0020|000e", "0020|0032", "0020|0037"
# The element (0002,0010) as any meta header has it, and the syntaxes without compression.
TRANSFER_SYNTAX = b"\x02\x00\x10\x00UI"
PLAIN = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2")
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
class Series:
    """The files of a series in spatial order, and their common grid."""

    files: tuple[str, ...]
    grid: Grid


@dataclass(frozen=True)
class _Slice:
    """What the header of one file says."""

    path: Path
    series: str
    grid: Grid
    position: np.ndarray  # of the first voxel, mm, LPS
    axes: np.ndarray  # (2, 3): along a row, along a column


def read_series(folder: str | Path) -> Series:
    """Read the headers of a folder's DICOM files (other files in it are left alone).

    Raises
    ------
    DataError
        If a file is cut short or claims more pixels than it holds, or if the files are not one
        series of equal slices at equal distances.
    """
    folder = Path(folder)
    slices, faults = [], []
    for path in sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith(".")):
        try:
            slices.append(_read_slice(path))
        except RuntimeError:
            # A text file may lie beside the slices; a DICOM file that cannot be read is a slice.
            if _head(path)[128:132] == b"DICM" and path.name != "DICOMDIR":
                faults.append(f"{path.name}: not a readable DICOM image")
        except DataError as error:
            faults.append(f"{path.name}: {error}")
    raise_all(DataError, f"{folder}: faulty DICOM files; fetch them again:", faults)
    found = len({each.series for each in slices})
    if found != 1:
        raise DataError(f"{folder}: found {found} DICOM series, expected exactly one")
    if len(slices) == 1:
        return Series((str(slices[0].path),), slices[0].grid)
    return _stack(slices, folder)


def _read_slice(path: Path) -> _Slice:
    """Read one file's header; `RuntimeError` where GDCM sees no image in it."""
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    grid = Grid.of(reader)

    def value(tag: str, absent: str) -> str:
        return reader.GetMetaData(tag).strip("\0 ") if reader.HasMetaDataKey(tag) else absent

    claimed = int(np.prod(grid.size)) * int(value(SAMPLES, "1")) * int(value(BITS, "16")) // 8
    found = path.stat().st_size
    if claimed > found and _uncompressed(path):
        raise DataError(
            f"its header claims {value(COLUMNS, '?')}x{value(ROWS, '?')} pixels, "
            f"{claimed} bytes, but the file has {found}"
        )
    position, axes = (
        np.array([float(v) for v in value(tag, absent).split("\\")])
        for tag, absent in ((POSITION, "0\\0\\0"), (ORIENTATION, "1\\0\\0\\0\\1\\0"))
    )
    return _Slice(path, value(SERIES, ""), grid, position, axes.reshape(2, 3))


def _head(path: Path) -> bytes:
    """Return the beginning of a file, longer than DICOM's meta header."""
    with path.open("rb") as stream:
        return stream.read(2048)


def _uncompressed(path: Path) -> bool:
    """Tell whether pixels are stored as they are; a codec compares sizes by itself."""
    head = _head(path)
    place = head.find(TRANSFER_SYNTAX)
    if place < 0:
        return True  # no meta header: DICOM's default syntax
    length = int.from_bytes(head[place + 6 : place + 8], "little")
    return head[place + 8 : place + 8 + length].decode("ascii", "replace").strip("\0 ") in PLAIN


def _stack(slices: Sequence[_Slice], folder: Path) -> Series:
    """Order slices along their normal, as ITK does, and return the grid that they make up."""
    first = slices[0]
    same = [
        f"{each.path.name}: {each.grid.size[:2]} pixels of {_rounded(each.grid.spacing[:2])} mm"
        for each in slices
        if each.grid.size[:2] != first.grid.size[:2]
        or not np.allclose(each.grid.spacing[:2], first.grid.spacing[:2], atol=1e-4)
        or not np.allclose(each.axes, first.axes, atol=1e-3)
        or each.grid.size[2:] != (1,)
    ]
    raise_all(
        DataError,
        f"{folder}: slices unlike {first.path.name} ({first.grid.size[:2]} pixels of "
        f"{_rounded(first.grid.spacing[:2])} mm) in size, spacing or orientation:",
        same,
    )
    normal = np.cross(*first.axes)
    ordered = sorted(slices, key=lambda each: float(each.position @ normal))
    depths = [float(each.position @ normal) for each in ordered]
    steps = np.diff(depths)
    usual = float(np.median(steps))
    gaps = [
        f"{a.path.name} and {b.path.name}: {step:.2f} mm apart, others {usual:.2f} mm"
        for (a, b), step in zip(itertools.pairwise(ordered), steps, strict=True)
        if usual <= 0 or abs(step - usual) > GAP_TOLERANCE * usual
    ]
    raise_all(DataError, f"{folder}: {len(slices)} slices, some missing or twice:", gaps)
    spacing = (*first.grid.spacing[:2], (depths[-1] - depths[0]) / len(steps))
    direction = np.stack([*first.axes, normal], axis=1).ravel()
    grid = Grid(
        (*first.grid.size[:2], len(slices)),
        spacing,
        tuple(ordered[0].position.tolist()),
        tuple(direction.tolist()),
    )
    return Series(tuple(str(each.path) for each in ordered), grid)


def _rounded(values: Sequence[float]) -> list[float]:
    return [round(value, 4) for value in values]
