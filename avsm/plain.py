"""MetaImage and NRRD: a header of text, and voxels behind it or in a file of their own.

Every byte of the voxels is accounted for: ITK's readers fill what a file lacks.
"""

import functools
import gzip
import math
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from avsm.errors import UserError
from avsm.volume import TOLERANCE, Volume, take

MOST_OF_A_LINE = 1 << 16
META_TYPES = {
    "MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2", "MET_INT": "i4",
    "MET_UINT": "u4", "MET_LONG": "i4", "MET_ULONG": "u4", "MET_LONG_LONG": "i8",
    "MET_ULONG_LONG": "u8", "MET_FLOAT": "f4", "MET_DOUBLE": "f8",
}  # fmt: skip
META_EXPECTED = {
    "ObjectType": "Image", "DistanceUnits": "mm", "ElementToIntensityFunctionSlope": "1",
    "ElementToIntensityFunctionOffset": "0",
}  # fmt: skip
TRUTH = {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}
NRRD_BYTES = {
    "char": 1, "int8": 1, "int8_t": 1, "short": 2, "short int": 2, "int16": 2, "int16_t": 2,
    "int": 4, "int32": 4, "int32_t": 4, "longlong": 8, "long long": 8, "long long int": 8,
    "int64": 8, "int64_t": 8,
}  # fmt: skip
TWO_WORDS = (  # which may be written as one
    "axis mins", "axis maxs", "block size", "old min", "old max", "sample units", "data file",
    "line skip", "byte skip",
)  # fmt: skip
NRRD_FIELDS = {
    *TWO_WORDS, "type", "dimension", "sizes", "encoding", "endian", "space", "space dimension",
    "space directions", "space origin", "space units", "spacings", "thicknesses", "kinds",
    "centers", "centerings", "labels", "units", "measurement frame", "content", "number", "min",
    "max",
}  # fmt: skip
SPACES = {  # to LPS
    "left-posterior-superior": (1, 1), "lps": (1, 1), "right-anterior-superior": (-1, -1),
    "ras": (-1, -1), "left-anterior-superior": (1, -1), "las": (1, -1),
}  # fmt: skip
OF_SPACE, OF_VECTORS = ("domain", "space"), ("vector", "covariant-vector", "3-vector", "list")
Unpack = Callable[[BinaryIO, int, Path], bytes]


def read_meta(path: Path, stream: BinaryIO) -> Volume:
    """Read MetaImage (.mha, .mhd) from its beginning.

    UserError says that it is not one 3D image or of no usable geometry, another that it is damaged.
    """
    fields: dict[str, str] = {}
    while "ElementDataFile" not in fields:
        key, equals, value = _line(stream, last=b"ElementDataFile").partition("=")
        _add(fields, key.strip(), value.strip() if equals else None)
    dimensions = _numbers(fields, "NDims", 1, int)[0]
    if dimensions != 3:
        raise UserError(f"found {dimensions} dimensions, expected 3")
    for key, expected in META_EXPECTED.items():
        if fields.get(key, expected) != expected:
            raise UserError(f"found {key} = {fields[key]}, expected {expected}")
    if not _truth(fields, "BinaryData", True):
        raise UserError("found voxels as text, expected BinaryData = True")
    size = _numbers(fields, "DimSize", 3, int)
    channels = _numbers(fields, "ElementNumberOfChannels", 1, int, [1])[0]
    name = fields.get("ElementType", "").removesuffix("_ARRAY")
    big = {_truth(fields, key, None) for key in ("BinaryDataByteOrderMSB", "ElementByteOrderMSB")}
    if name not in META_TYPES or {True, False} <= big:
        raise UserError(f"found the element type {name or 'none'} and byte orders {big}")
    kind = np.dtype(META_TYPES[name]).newbyteorder(">" if True in big else "<")
    notes: list[str] = []
    directions, spacing, origin = (
        _first(fields, keys, usual, notes)
        for keys, usual in (
            (("TransformMatrix", "Rotation", "Orientation"), np.eye(3).ravel()),
            (("ElementSpacing", "ElementSize"), np.ones(3)),
            (("Offset", "Position", "Origin"), np.zeros(3)),
        )
    )
    directions = directions.reshape(3, 3).T  # what is written is one axis after the other
    if not (np.abs(np.linalg.norm(directions, axis=0) - 1) * size <= TOLERANCE).all():
        raise UserError("found axes that are not of length 1 in its header")
    if not spacing.min() > 0:
        raise UserError(f"found voxels of {spacing.tolist()} mm, expected positive sides")
    count = _count(size, channels, kind)
    skip = _numbers(fields, "HeaderSize", 1, int, [0])[0]
    file: str | None = fields["ElementDataFile"]
    if file.upper() == "LOCAL":
        if skip > 0:
            raise UserError(f"found HeaderSize = {skip}, expected 0 in a single file")
        file, skip = None, 0
    unpack = None
    if _truth(fields, "CompressedData", False):
        claimed = _numbers(fields, "CompressedDataSize", 1, int, [None])[0]
        unpack = functools.partial(_inflate, claimed)
    data = _voxels(path, stream, file, skip, count, unpack)
    array = np.frombuffer(data, kind).reshape(*size[::-1], *([channels] if channels > 1 else []))
    return Volume(array, directions * spacing, origin, tuple(notes))


def _first(
    fields: Mapping[str, str], keys: Sequence[str], usual: np.ndarray, notes: list[str]
) -> np.ndarray:
    """Give the numbers of a field that has several names, or the usual ones, with a note."""
    found = [_numbers(fields, key, len(usual)) for key in keys if key in fields]
    if not found:
        notes.append(f"no {keys[0]}: it is taken for {usual.tolist()}")
    if len(found) > 1 and keys[0] != "ElementSpacing":
        raise UserError(f"found more than one of {', '.join(keys)}, expected the first")
    return np.array((found or [usual])[0], float)


def _inflate(claimed: int | None, stream: BinaryIO, count: int, path: Path) -> bytes:
    """Decompress the rest of a stream, which must be whole and of ``count`` bytes in the end."""
    packed = stream.read()
    claimed = len(packed) if claimed is None else claimed
    inflate = zlib.decompressobj(32 + zlib.MAX_WBITS)  # zlib's format or gzip's
    data = inflate.decompress(packed, count + 1)
    if claimed > len(packed) or (not inflate.eof and len(data) <= count) or len(data) < count:
        raise OSError(
            f"{path.name} is cut short: found {len(packed)} compressed bytes and {len(data)} of "
            f"voxels, expected {claimed} and {count}"
        )
    if claimed < len(packed) or inflate.unused_data or len(data) > count:
        raise OSError(
            f"{path.name} is longer than its header says: found {len(packed)} compressed bytes, "
            f"expected {claimed}, and {count} of voxels"
        )
    return data


def read_nrrd(path: Path, stream: BinaryIO) -> Volume:
    """Read NRRD (.nrrd, .nhdr) from its beginning; errors as of ``read_meta``."""
    fields: dict[str, str] = {}
    two_words = {name.replace(" ", ""): name for name in TWO_WORDS}
    _line(stream)  # the magic string
    while line := _line(stream, must_end="data file" not in fields):
        key, colon, value = line.partition(":")
        if line.startswith("#") or value.startswith("="):
            continue  # a comment, or a key of the user's
        name = two_words.get(key.strip().lower(), key.strip().lower())
        if colon and name not in NRRD_FIELDS:
            raise UserError(f"found the unknown field '{key}' in its header")
        _add(fields, name, value.strip() if colon else None)
    sizes = _numbers(fields, "sizes", _numbers(fields, "dimension", 1, int)[0], int)
    kind = _nrrd_type(fields.get("type", "none").lower(), fields.get("endian", "none").lower())
    axis, axes, origin, notes = _nrrd_place(fields, len(sizes))
    count = _count(sizes, 1, kind)
    encoding = fields.get("encoding", "").lower()
    skips = {what: _numbers(fields, f"{what} skip", 1, int, [0])[0] for what in ("line", "byte")}
    raw = encoding == "raw"
    if not (raw or encoding in ("gzip", "gz")) or skips["line"] or (skips["byte"] and not raw):
        raise UserError(f"found the encoding {encoding} and skips {skips}, expected raw or gzip")
    unpack = None if raw else _gunzip
    data = _voxels(path, stream, fields.get("data file"), skips["byte"], count, unpack)
    array = np.frombuffer(data, kind).reshape(sizes[::-1])
    if axis is not None:
        array = np.moveaxis(array, len(sizes) - 1 - axis, -1)
    return Volume(array, axes, origin, notes)


def _nrrd_type(name: str, endian: str) -> np.dtype:
    sign, bare = re.fullmatch(r"(unsigned |signed |u)?(.*)", " ".join(name.split())).groups()
    size = NRRD_BYTES.get(bare)
    code = f"{'u' if (sign or '')[:1] == 'u' else 'i'}{size}"
    code = {"float": "f4", "double": "f8"}.get(name, code if size else None)
    if code is None or (endian not in ("little", "big") and code[1] != "1"):
        raise UserError(f"found the type '{name}', endian {endian}; expected a number's type")
    return np.dtype(code).newbyteorder(">" if endian == "big" else "<")


def _nrrd_place(
    fields: Mapping[str, str], dimension: int
) -> tuple[int | None, np.ndarray, np.ndarray, tuple[str, ...]]:
    """Give the axis of components (None: voxels are scalar), the axes of space and the origin."""
    kinds = fields.get("kinds", " ".join(["domain"] * dimension)).lower().split()
    others = [axis for axis, kind in enumerate(kinds) if kind not in OF_SPACE and kind != "???"]
    layers = [kinds[axis] for axis in others if kinds[axis] not in OF_VECTORS]
    if len(kinds) != dimension or dimension - len(others) != 3 or len(others) > 1 or layers:
        raise UserError(
            f"found {dimension} dimensions of the kinds {', '.join(kinds)} and the sizes "
            f"{fields['sizes']}, expected a scalar 3D image: 3 of the kind domain"
        )
    if fields.get("space units", '"mm"').replace('"', " ").split()[0] != "mm":
        raise UserError(f"found the space units {fields['space units']}, expected mm")
    space, notes = fields.get("space", "").lower(), []
    if space and space not in SPACES:
        raise UserError(f"found the space '{space}', expected left-posterior-superior or RAS")
    if "space directions" in fields:
        *steps, rest = fields["space directions"].replace("none", "(none)").split(")")
        steps = [_vector(step) for at, step in enumerate(steps) if at not in others]
        if rest.strip() or len(steps) != 3 or not all(len(step) == 3 for step in steps):
            raise UserError(f"found the space directions {fields['space directions']}, expected 3")
        axes = np.array(steps).T
    else:
        spacings = _numbers(fields, "spacings", dimension, usual=[1.0] * dimension)
        axes = np.diag([side for axis, side in enumerate(spacings) if axis not in others])
        if not axes.diagonal().min() > 0:
            raise UserError(f"found the spacings {axes.diagonal().tolist()}, expected positive")
        notes.append(f"no space directions: the sides are taken for {axes.diagonal().tolist()} mm")
    if not space:
        notes.append("no space: its axes are taken for left, posterior, superior")
    if "space origin" not in fields:
        notes.append("no space origin: it is taken for 0")
    origin = np.array(_vector(fields.get("space origin", "(0,0,0)").rstrip(")")))
    flip = np.array([*SPACES.get(space, (1, 1)), 1])
    if len(origin) != 3 or (others and (flip < 0).any()):
        raise UserError(f"found an origin of {len(origin)} numbers, or vectors in {space}")
    return (others or [None])[0], flip[:, None] * axes, flip * origin, tuple(notes)


def _gunzip(stream: BinaryIO, count: int, path: Path) -> bytes:
    with gzip.GzipFile(fileobj=stream) as inflated:
        return take(inflated, count, path)


def _voxels(
    path: Path, stream: BinaryIO, file: str | None, skip: int, count: int, unpack: Unpack | None
) -> bytes:
    """Give so many bytes of voxels, from behind the header or from the file that it names.

    Those that are not compressed begin ``skip`` bytes on; -1: they are the last of the file.
    """
    source = path if file is None else path.parent / file
    if not source.is_file():
        raise UserError(f"found '{file}' for the file of its voxels, expected one file beside it")
    with stream if file is None else source.open("rb") as own:
        if unpack is not None:
            return unpack(own, count, source)
        if skip < -1:
            raise UserError(f"found {skip} bytes to skip, expected -1 or more")
        here = own.tell()  # a stream that is cut short must not begin before it
        own.seek(max(here, source.stat().st_size - count) if skip == -1 else here + skip)
        return take(own, count, source)


def _line(stream: BinaryIO, must_end: bool = True, last: bytes = b"\n") -> str:
    """Read a line of a header; it must end, but for the ``last`` of a header without voxels."""
    line = stream.readline(MOST_OF_A_LINE)
    must_end = must_end and not line.startswith(last)
    if not line.endswith(b"\n") and (must_end or len(line) == MOST_OF_A_LINE):
        raise OSError("its header is cut short, or is no text")
    text = line.decode("utf-8").rstrip()
    if not text.replace("\t", " ").isprintable():
        raise ValueError(f"found control characters in the header: {text[:80]!r}")
    return text


def _add(fields: dict[str, str], key: str, value: str | None) -> None:
    if value is None or key in fields:
        raise UserError(f"found '{key}' {'twice' if key in fields else 'alone'} in its header")
    fields[key] = value


def _numbers(
    fields: Mapping[str, str], key: str, count: int, kind: type = float, usual: list | None = None
) -> list:
    """Give the numbers of a field; UserError if they are not as many or no numbers."""
    if key not in fields and usual is not None:
        return usual
    try:
        numbers = [kind(word) for word in fields.get(key, "").split()]
    except ValueError:
        numbers = []
    if len(numbers) != count:
        raise UserError(f"found {key} '{fields.get(key, '')}', expected {count} of {kind.__name__}")
    return numbers


def _vector(text: str) -> list[float]:
    return [float(word) for word in text.strip(" (").split(",")]


def _truth(fields: Mapping[str, str], key: str, usual: bool | None) -> bool | None:
    if key in fields and fields[key].lower() not in TRUTH:
        raise UserError(f"found {key} = {fields[key]}, expected True or False")
    return TRUTH[fields[key].lower()] if key in fields else usual


def _count(sizes: Sequence[int], channels: int, kind: np.dtype) -> int:
    """Give how many bytes voxels take."""
    if min(*sizes, channels) < 1:
        raise UserError(f"found the sizes {sizes} of {channels} components, expected at least 1")
    return math.prod(sizes) * channels * kind.itemsize
