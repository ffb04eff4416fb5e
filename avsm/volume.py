"""What a file holds, before it becomes an image: voxels, and where they lie."""

import gzip
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import SimpleITK as sitk

from avsm.errors import UserError
from avsm.files import stem_and_suffix

TOLERANCE = 0.1  # of a voxel: how far two statements of one geometry may be apart
SPACINGS_MM = (1e-6, 1e6)
LPS_FROM_RAS = np.diag([-1.0, -1.0, 1.0])
GZIP = b"\x1f\x8b"
MOST_DEFLATED = 1040  # deflate makes no more than so many bytes of one
TYPES = ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8"]


class Volume(NamedTuple):
    """Voxels and their place, in mm, LPS."""

    array: np.ndarray  # (z, y, x), or (z, y, x, components)
    axes: np.ndarray  # (3, 3), its columns the steps from a voxel to the next along x, y and z
    origin: np.ndarray  # (3,), centre of the first voxel
    notes: tuple[str, ...] = ()  # what was odd, and what was made of it

    def image(self) -> sitk.Image:
        """Make the image; UserError unless voxels are finite real numbers and axes a rotation."""
        kind = self.array.dtype
        if kind.newbyteorder("<").str[1:] not in TYPES:
            raise UserError(f"found values of {kind.name}, expected real numbers of 8 to 64 bits")
        if kind.kind == "f" and (bad := np.count_nonzero(~np.isfinite(self.array))):
            raise UserError(f"found {bad} voxels that are NaN or infinite")
        size = self.array.shape[2::-1]
        rotation, spacing = rotation_and_spacing(self.axes, self.origin, size)
        array = np.ascontiguousarray(self.array, kind.newbyteorder("="))
        image = sitk.GetImageFromArray(array, isVector=array.ndim == 4)
        image.SetDirection(rotation.ravel().tolist())
        image.SetSpacing(spacing.tolist())
        image.SetOrigin(np.asarray(self.origin, float).tolist())
        return image


def corners(size: tuple[int, ...]) -> np.ndarray:
    """Give the indices of a grid's eight corners, ``(3, 8)``."""
    return np.stack(np.meshgrid(*((0, n - 1) for n in size), indexing="ij")).reshape(3, -1)


def plausible(axes: np.ndarray) -> bool:
    """Tell whether voxels have sides that can be, so that one can calculate with them."""
    with np.errstate(over="ignore"):
        spacing = np.linalg.norm(axes, axis=0)
    return bool(SPACINGS_MM[0] <= spacing.min() and spacing.max() <= SPACINGS_MM[1])


def skew(axes: np.ndarray, size: tuple[int, ...]) -> float:
    """Give how far, in voxels, the corners of a grid are from where right angles put them."""
    rotation, spacing = _polar(axes)
    off = (axes - rotation * spacing) @ corners(size)
    return float(np.abs(rotation.T @ off / spacing[:, None]).max())


def apart(a: np.ndarray, b: np.ndarray, size: tuple[int, ...]) -> float:
    """Give how far two ``(3, 4)`` or ``(4, 4)`` affines put a corner apart, in voxels of ``a``."""
    off = (b - a)[:3, :3] @ corners(size) + (b - a)[:3, 3:]
    return float(np.abs(off).max() / np.linalg.norm(a[:3, :3], axis=0).min())


def rotation_and_spacing(
    axes: np.ndarray, origin: np.ndarray, size: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Take axes apart; UserError where they are not finite, too short, too long or not square."""
    if not (np.isfinite(axes).all() and np.isfinite(origin).all()):
        raise UserError("its place or its axes are NaN or infinite; write its header anew")
    if not plausible(axes):
        sides = np.linalg.norm(axes, axis=0).tolist()
        raise UserError(f"found voxels of {sides} mm, expected positive sides")
    if (off := skew(axes, size)) > TOLERANCE:
        raise UserError(
            f"its axes are not at right angles (a corner is {off:.2f} voxels off): it is sheared; "
            "resample it to a grid with right angles"
        )
    return _polar(axes)


def _polar(axes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Give the rotation, or reflection, nearest to axes, and their lengths."""
    spacing = np.linalg.norm(axes, axis=0)
    u, _, v = np.linalg.svd(axes / spacing)
    return u @ v, spacing


def opened(path: Path) -> BinaryIO:
    """Open a file to read; one that gzip made is decompressed, whatever its name."""
    with path.open("rb") as stream:
        packed = stream.read(2) == GZIP
    return gzip.open(path) if packed else path.open("rb")


def take(stream: BinaryIO, count: int, path: Path) -> bytes:
    """Read the rest of a stream of a file, which must be of ``count`` bytes; else OSError."""
    packed = isinstance(stream, gzip.GzipFile)
    size = path.stat().st_size
    left = size * MOST_DEFLATED if packed else size - stream.tell()
    # One byte more: where a gzip stream ends, its sum is checked.
    data = stream.read(count + 1) if count <= left else b""
    if count > left or len(data) < count:
        found = "fewer" if packed else max(left, 0)
        raise OSError(f"cut short: found {found} bytes of voxels, expected {count}")
    if len(data) > count:
        found = "more" if packed else left
        raise OSError(f"longer than its header says: found {found} bytes, expected {count}")
    return data


def sibling(path: Path, suffix: str) -> Path:
    """Give the file beside another that has its name with another suffix, in any case."""
    wanted = stem_and_suffix(path)[0], suffix
    for each in sorted(path.parent.iterdir()):
        if stem_and_suffix(each) == wanted:
            return each
    raise UserError(f"expected a file {'.'.join(wanted)} beside it, found none")
