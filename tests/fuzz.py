"""Damaged images through the gate: refused, or read as another reader reads them.

Mutates headers and truncates bodies by seed. The readers that are compared with share nothing with
the gate's: nibabel for NIfTI, pydicom for DICOM, and a few lines of NumPy for MetaImage and NRRD.

    python -m tests.fuzz --number 2000
"""

from __future__ import annotations

import argparse
import gzip
import multiprocessing
import re
import shutil
import struct
import sys
import tempfile
import traceback
import warnings
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import SimpleITK as sitk

from avsm.errors import UserError
from avsm.images import read_image
from tests.conftest import oblique_grid
from tests.oai import write_series

SIZE = (5, 6, 7)
TOLERANCE = 0.1  # voxels
LPS = np.diag([-1.0, -1, 1, 1])
NUMPY = {
    "MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2", "MET_INT": "i4",
    "MET_UINT": "u4", "MET_LONG": "i4", "MET_ULONG": "u4", "MET_FLOAT": "f4", "MET_DOUBLE": "f8",
    "MET_LONG_LONG": "i8", "MET_ULONG_LONG": "u8",
    "short": "i2", "ushort": "u2", "unsigned short": "u2", "int": "i4", "uint": "u4",
    "unsigned int": "u4", "uchar": "u1", "unsigned char": "u1", "signed char": "i1",
    "float": "f4", "double": "f8",
}  # fmt: skip
WORDS = {
    b"short": (b"ushort", b"float", b"int", b"double", b"block", b"uchar"),
    b"MET_SHORT": (b"MET_USHORT", b"MET_FLOAT", b"MET_INT", b"MET_UCHAR", b"MET_LONG", b"MET_X"),
    b"little": (b"big", b""), b"gzip": (b"raw", b"bzip2", b"ascii"), b"raw": (b"gzip", b"hex"),
    b"left-posterior-superior": (b"right-anterior-superior", b"scanner-xyz", b""),
    b"domain": (b"vector", b"list", b"RGB-color"), b"True": (b"False", b"maybe"),
    b"False": (b"True", b"0"), b"LOCAL": (b"LIST", b"nothing.raw", b"local"),
}  # fmt: skip
NUMBERS = (0, 1, -1, 2, 3, 4, 5, 127, 255, 256, 348, 512, 540, 32767, -32768, 70000)
REALS = (0, -1, 1, 0.5, 1e-30, 1e30, np.nan, np.inf, 1.6, 2.0, 0.1, -0.7)
NIFTI1_FIELDS = [(40 + 2 * k, "h") for k in range(8)] + [
    (70, "h"), (72, "h"), (68, "h"), (252, "h"), (254, "h"), (108, "f"), (112, "f"), (116, "f"),
    (123, "b"), (39, "b"), (0, "i"), *((76 + 4 * k, "f") for k in range(8)),
    *((256 + 4 * k, "f") for k in range(18)),
]  # fmt: skip

META_USUAL = {
    "transformmatrix": "1 0 0 0 1 0 0 0 1", "elementspacing": "1 1 1", "offset": "0 0 0",
    "compresseddata": "False", "binarydatabyteordermsb": "False",
}  # fmt: skip
Case = tuple[Path, list[Path]]  # what is read, and which files it consists of


def image(rng: np.random.Generator) -> sitk.Image:
    """Make noise on an oblique grid."""
    made = sitk.GetImageFromArray(rng.integers(0, 900, SIZE[::-1]).astype(np.int16))
    made.CopyInformation(oblique_grid(SIZE))
    return made


def nifti(rng: np.random.Generator, folder: Path) -> Case:
    """Write NIfTI of one of its kinds."""
    kind = rng.choice(["a.nii", "a.nii.gz", "A.NII.GZ", "a.hdr", "two", "big", "scaled"])
    made = image(rng)
    path = folder / ("a.nii" if kind in ("two", "big", "scaled") else str(kind).lower())
    sitk.WriteImage(made, str(path))
    if kind == "A.NII.GZ":
        path = path.rename(folder / kind)
    if kind in ("two", "big", "scaled"):
        loaded = nibabel.load(path)
        array = np.asanyarray(loaded.dataobj)
        if kind == "two":
            loaded = nibabel.Nifti2Image(array, loaded.affine)
        elif kind == "big":
            header = loaded.header.as_byteswapped(">")
            loaded = nibabel.Nifti1Image(array.astype(">i2"), loaded.affine, header)
        else:
            loaded.header.set_slope_inter(0.37, -12)
            loaded = nibabel.Nifti1Image(array * 0.37 - 12, loaded.affine, loaded.header)
        nibabel.save(loaded, path)
    return path, [path, *([folder / "a.img"] if kind == "a.hdr" else [])]


def meta(rng: np.random.Generator, folder: Path) -> Case:
    """Write MetaImage, in one file or two, compressed or not."""
    path = folder / rng.choice(["a.mha", "a.mhd", "A.MHA"])
    sitk.WriteImage(image(rng), str(path), bool(rng.integers(2)), imageIO="MetaImageIO")
    return path, sorted(folder.iterdir())


def nrrd(rng: np.random.Generator, folder: Path) -> Case:
    """Write NRRD, in one file or two, compressed or not."""
    path = folder / rng.choice(["a.nrrd", "a.nhdr"])
    sitk.WriteImage(image(rng), str(path), bool(rng.integers(2)))
    return path, sorted(folder.iterdir())


def dicom(rng: np.random.Generator, folder: Path) -> Case:
    """Write a DICOM series, plain or compressed, or a file with several frames."""
    kind = rng.choice(["series", "series", "implicit", "RLE", "deflated", "frames"])
    made = sitk.Cast(image(rng), sitk.sitkUInt16)
    path = folder / ("a.dcm" if kind == "frames" else "series")
    if kind == "frames":
        sitk.WriteImage(made, str(path))
        return path, [path]
    write_series(made, path)
    for file in path.iterdir():
        dataset = pydicom.dcmread(file)
        if kind == "implicit":
            dataset.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
        elif kind == "deflated":
            dataset.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
        elif kind == "RLE":
            dataset.compress(pydicom.uid.RLELossless, generate_instance_uid=False)
        dataset.save_as(file, implicit_vr=kind == "implicit", little_endian=True)
    return path, sorted(path.iterdir())


def mutate(rng: np.random.Generator, path: Path) -> str:
    """Damage a file in one place, or at its end; give what was done."""
    packed = path.read_bytes()
    zipped = packed[:2] == b"\x1f\x8b" and rng.random() < 0.7  # else the stream itself
    data = bytearray(gzip.decompress(packed) if zipped else packed)
    how = str(rng.choice(["cut", "longer", "byte", "byte", "field", "field", "field", "line"]))
    end = data.find(b"\n\n") if data.startswith(b"NRRD") else data.find(b"ElementDataFile")
    if how == "cut":
        del data[int(rng.integers(len(data))) :]
    elif how == "longer":
        data += rng.bytes(int(rng.choice([1, 2, 7, 420])))
    elif end > 0 and how in ("field", "line"):
        head = _text(rng, bytes(data[: end + 30]), how)
        data[: end + 30] = head
    elif data[:4] == b"\x5c\x01\0\0" and how in ("field", "line"):
        place, code = NIFTI1_FIELDS[rng.integers(len(NIFTI1_FIELDS))]
        value = rng.choice(REALS) if code == "f" else int(rng.choice(NUMBERS))
        value = value if code == "f" else (value + 128) % 256 - 128 if code == "b" else value
        value = (value + 32768) % 65536 - 32768 if code == "h" else value
        struct.pack_into(f"<{code}", data, place, value)
        how = f"field at {place}: {value}"
    elif data[128:132] == b"DICM" and how in ("field", "line"):
        how = _element(rng, path)
        return f"{path.name}: {how}"
    else:
        place = int(rng.integers(min(len(data), 1500)))
        data[place] = int(rng.integers(256))
        how = f"byte at {place}"
    path.write_bytes(gzip.compress(bytes(data)) if zipped else bytes(data))
    return f"{path.name}: {how}"


def _text(rng: np.random.Generator, head: bytes, how: str) -> bytes:
    """Change a word or a number of a text header, or drop, double or swap a line."""
    lines = head.split(b"\n")
    at = int(rng.integers(1, max(2, len(lines) - 1)))
    if how == "line":
        kind = rng.integers(3)
        if kind == 0:
            del lines[at]
        elif kind == 1:
            lines.insert(at, lines[at])
        else:
            lines[at - 1], lines[at] = lines[at], lines[at - 1]
        return b"\n".join(lines)
    old = [word for word in WORDS if word in lines[at]]
    if old and rng.random() < 0.7:
        word = old[-1]
        lines[at] = lines[at].replace(word, WORDS[word][rng.integers(len(WORDS[word]))], 1)
    else:
        words = re.sub(rb"([,()])", rb" \1 ", lines[at]).split(b" ")
        spots = [k for k, word in enumerate(words) if word[:1].isdigit() or word[:1] == b"-"]
        if spots:
            value = rng.choice(REALS) if rng.random() < 0.5 else rng.choice(NUMBERS)
            words[spots[rng.integers(len(spots))]] = f"{value:g}".encode()
        lines[at] = b" ".join(words)
    return b"\n".join(lines)


def _element(rng: np.random.Generator, path: Path) -> str:
    """Change, empty or delete one element of a DICOM file."""
    dataset = pydicom.dcmread(path)
    keys = [
        "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation",
        "SamplesPerPixel", "NumberOfFrames", "PixelSpacing", "ImagePositionPatient",
        "ImageOrientationPatient", "RescaleSlope", "RescaleIntercept", "PhotometricInterpretation",
        "SeriesInstanceUID", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
    ]  # fmt: skip
    key = str(rng.choice(keys))
    kind = rng.integers(3)
    if kind == 0 and key in dataset:
        del dataset[key]
    elif kind == 1 and key in dataset:
        dataset[key].value = None
    elif "Sequence" in key:
        dataset.setdefault(key, [])
    elif key == "PhotometricInterpretation":
        dataset.PhotometricInterpretation = str(rng.choice(["MONOCHROME1", "RGB", ""]))
    elif key == "SeriesInstanceUID":
        dataset.SeriesInstanceUID = "1.2.3"
    elif key in ("PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient"):
        usual = {"PixelSpacing": 2, "ImagePositionPatient": 3, "ImageOrientationPatient": 6}[key]
        values = [float(v) for v in dataset.get(key) or [1.0] * usual]
        values[rng.integers(len(values))] = float(rng.choice([0, 1, -1, 0.5, 1.6, 3e3, 12]))
        setattr(dataset, key, [f"{v:.6g}" for v in values])
    elif key in ("RescaleSlope", "RescaleIntercept"):
        setattr(dataset, key, float(rng.choice([0, 1, 2.5, -3])))
    elif key == "NumberOfFrames":
        dataset.NumberOfFrames = int(rng.choice([0, 1, 2, 6, 7, 8]))
    else:
        setattr(dataset, key, int(rng.choice([0, 1, 2, 3, 5, 6, 7, 8, 12, 15, 16, 32, 999])))
    dataset.save_as(path)
    return f"{key} {kind}"


def by_nibabel(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read NIfTI: ``(x, y, z)`` and the affine, LPS."""
    if path.suffix == ".GZ":
        path = path.rename(path.with_name(path.name.lower()))
    loaded = nibabel.load(path)
    array = np.asanyarray(loaded.dataobj)
    return array.reshape(array.shape[:3]), LPS @ loaded.affine


def by_numpy(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read MetaImage or NRRD as far as SimpleITK writes them."""
    data = path.read_bytes()
    nrrd_ = data.startswith(b"NRRD")
    fields = {} if nrrd_ else dict(META_USUAL)
    while True:
        line, _, data = data.partition(b"\n")
        if nrrd_ and not line.strip():
            break
        key, _, value = line.decode().partition(":" if nrrd_ else "=")
        fields[key.strip().lower()] = value.strip()
        if key.strip() == "ElementDataFile" or (nrrd_ and not data and "data file" in fields):
            break

    def numbers(key: str) -> np.ndarray:
        text = fields[key].replace("(", " ").replace(")", " ").replace(",", " ")
        return np.array([float(word) for word in text.split()])

    file = fields.get("data file" if nrrd_ else "elementdatafile", "LOCAL")
    body = data if file.upper() == "LOCAL" else (path.parent / file).read_bytes()
    affine = np.eye(4)
    if nrrd_:
        sizes, kind = numbers("sizes").astype(int), fields["type"].lower()
        big = fields.get("endian") == "big"
        body = gzip.decompress(body) if fields["encoding"] in ("gzip", "gz") else body
        if "space directions" in fields:
            affine[:3, :3] = numbers("space directions").reshape(3, 3).T
        if "space origin" in fields:
            affine[:3, 3] = numbers("space origin")
        if fields.get("space") == "right-anterior-superior":
            affine = LPS @ affine
    else:
        sizes, kind = numbers("dimsize").astype(int), fields["elementtype"]
        big = fields["binarydatabyteordermsb"] == "True"
        body = zlib.decompress(body) if fields["compresseddata"] in ("True", "1") else body
        affine[:3, :3] = numbers("transformmatrix").reshape(3, 3).T * numbers("elementspacing")
        affine[:3, 3] = numbers("offset")
    kind = np.dtype(NUMPY[kind]).newbyteorder(">" if big else "<")
    return np.frombuffer(body, kind).reshape(sizes, order="F"), affine


def by_pydicom(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read a series, or a file with frames, from its lowest plane up its normal."""
    planes = []
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        dataset = pydicom.dcmread(file, force=True)
        pixels = dataset.pixel_array
        pixels = pixels[None] if pixels.ndim == 2 else pixels
        for k, plane in enumerate(pixels):
            where, how, sides = dataset, dataset, dataset
            if dataset.get("PerFrameFunctionalGroupsSequence"):
                shared = dataset.SharedFunctionalGroupsSequence[0]
                where = dataset.PerFrameFunctionalGroupsSequence[k].PlanePositionSequence[0]
                how, sides = shared.PlaneOrientationSequence[0], shared.PixelMeasuresSequence[0]
            scaled = plane * float(dataset.get("RescaleSlope") or 1)
            scaled = scaled + float(dataset.get("RescaleIntercept") or 0)
            axes = np.array(how.ImageOrientationPatient, float).reshape(2, 3)
            steps = axes * np.array(sides.PixelSpacing, float)[::-1, None]
            planes.append((np.array(where.ImagePositionPatient, float), axes, steps, scaled))
    normal = np.cross(*planes[0][1])
    planes.sort(key=lambda each: each[0] @ normal)
    affine = np.eye(4)
    affine[:3, :2] = planes[0][2].T
    affine[:3, 2] = (planes[-1][0] - planes[0][0]) / max(1, len(planes) - 1)
    affine[:3, 3] = planes[0][0]
    return np.stack([plane[3] for plane in planes]).T, affine


FORMATS: dict[str, tuple[Callable, Callable]] = {
    "NIfTI": (nifti, by_nibabel), "MetaImage": (meta, by_numpy), "NRRD": (nrrd, by_numpy),
    "DICOM": (dicom, by_pydicom),
}  # fmt: skip


def difference(path: Path, read: sitk.Image, warned: bool, reference: Callable) -> str:
    """Say how an image that was accepted differs from what another reader reads; nothing: ''."""
    array, affine = reference(path)
    found = sitk.GetArrayFromImage(read).T
    if found.shape != array.shape or not np.array_equal(found, array):
        return f"voxels: {found.shape} {found.dtype}, expected {array.shape} {array.dtype}"
    if warned:
        return ""
    ends = np.array(np.meshgrid(*((0, n - 1) for n in array.shape))).reshape(3, -1)
    mine = [read.TransformIndexToPhysicalPoint([int(n) for n in end]) for end in ends.T]
    off = np.abs(affine[:3, :3] @ ends + affine[:3, 3:] - np.transpose(mine)).max()
    side = min(read.GetSpacing())
    return f"geometry: {off / side:.3f} voxels" if not off <= TOLERANCE * side else ""


def fuzz(name: str, number: int, seed: int = 0) -> tuple[Counter, list[str]]:
    """Read so many mutants of a format: how they ended, and what must not be."""
    write, reference = FORMATS[name]
    counts, failures = Counter(), []
    for k in range(number):
        rng = np.random.default_rng([seed, k])
        folder = Path(tempfile.mkdtemp())
        try:
            path, files = write(rng, folder)
            done = mutate(rng, files[rng.integers(len(files))])
            notes: list[str] = []
            try:
                read = read_image(path, notes)
            except UserError as error:
                counts["refused"] += 1
                if str(path) not in str(error):
                    failures.append(f"{name} {k} ({done}): names no file: {error}")
                continue
            counts["warned" if notes else "accepted"] += 1
            if off := difference(path, read, bool(notes), reference):
                failures.append(f"{name} {k} ({done}): {off} {notes}")
        except Exception:
            failures.append(f"{name} {k} ({done}): {traceback.format_exc()}")
        finally:
            shutil.rmtree(folder)
    return counts, failures


def _report(name: str, number: int, seed: int) -> None:
    warnings.simplefilter("ignore")
    counts, failures = fuzz(name, number, seed)
    print(f"{name}: {number} mutants, {dict(counts)}, failures: {len(failures)}")
    print(*failures, sep="\n")
    sys.exit(bool(failures))


def main() -> int:
    """Run all formats, each in a process of its own, so that a crash is seen."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--number", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--format", choices=FORMATS, nargs="+", default=list(FORMATS))
    arguments = parser.parse_args()
    codes = []
    for name in arguments.format:
        process = multiprocessing.get_context("spawn").Process(
            target=_report, args=(name, arguments.number, arguments.seed)
        )
        process.start()
        process.join()
        codes.append(process.exitcode)
    print("exit codes:", codes)
    return max(map(abs, codes))


if __name__ == "__main__":
    sys.exit(main())
