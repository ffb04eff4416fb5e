"""NIfTI-1 and NIfTI-2, one file or a pair: every byte accounted for, qform held against sform."""

import logging
import math
from pathlib import Path
from typing import BinaryIO

import nibabel
import numpy as np
from nibabel.nifti1 import Nifti1PairHeader
from nibabel.nifti2 import Nifti2PairHeader

from avsm.errors import UserError
from avsm.volume import (
    LPS_FROM_RAS,
    TOLERANCE,
    Volume,
    apart,
    opened,
    plausible,
    sibling,
    skew,
    take,
)  # fmt: skip

HEADERS = {
    b"n+1": nibabel.Nifti1Header, b"ni1": Nifti1PairHeader,
    b"n+2": nibabel.Nifti2Header, b"ni2": Nifti2PairHeader,
}  # fmt: skip
SIZES = {348: 344, 540: 4}  # of a header, and where in it the magic string lies
UNKNOWN, MM = 0, 2  # units of space
DISPLACEMENT, VECTOR = 1006, 1007  # intents; the former's components are RAS
BAD = 30  # from which of nibabel's levels a fault is one of ours
QUIET = logging.getLogger(f"{__name__}.nibabel")
QUIET.disabled = True  # it tells of what it mends in headers


def is_nifti(head: bytes) -> bool:
    """Tell whether a file that begins so has a header of NIfTI or ANALYZE."""
    sizes = {int.from_bytes(head[:4], order) for order in ("little", "big")}
    return bool(sizes & {*SIZES}) and len(head) >= min(SIZES)


def read_nifti(path: Path, stream: BinaryIO) -> Volume:
    """Read a file, or a header and the ``.img`` beside it; errors as of ``plain.read_meta``."""
    head = stream.read(4)
    size = next(n for n in SIZES if n.to_bytes(4, "little") in (head, head[::-1]))
    head += stream.read(size - 4)
    magic = head[SIZES[size] :][:3]
    if magic not in HEADERS:
        raise UserError(
            f"found the magic string {magic!r}, expected that of NIfTI; a header of ANALYZE does "
            "not say which side is left: convert it to NIfTI"
        )
    header = HEADERS[magic](head, check=False)
    header.check_fix(QUIET, BAD)
    shape, kind = header.get_data_shape(), header.get_data_dtype()
    if len(shape) < 3 or min(shape) < 1:
        raise UserError(f"found the dimensions {shape}, expected 3")
    count, offset = math.prod(shape) * kind.itemsize, int(header.get_data_offset())
    if magic[:2] == b"n+":
        if offset < size:
            raise UserError(f"found voxels from byte {offset} on, expected them behind its header")
        stream.read(offset - size)
        data = take(stream, count, path)
    else:
        image = sibling(path, "img")
        with opened(image) as pixels:
            pixels.read(offset)
            data = take(pixels, count, image)
    affine, notes = _affine(header, shape[:3])
    array = _scaled(np.frombuffer(data, kind), header).reshape(shape[::-1])
    while array.ndim > 3 and array.shape[0] == 1:
        array = array[0]  # dimensions of 1 behind the third say nothing
    if array.ndim == 5 and array.shape[1] == 1:
        array, intent = np.moveaxis(array[:, 0], 0, -1), int(header["intent_code"])
        if intent == DISPLACEMENT and array.shape[-1] == 3:
            array = array * LPS_FROM_RAS.diagonal().astype(array.dtype)
        elif intent != VECTOR:
            raise UserError(f"found {array.shape[-1]} components a voxel of the intent {intent}")
    elif array.ndim != 3:
        raise UserError(f"found the dimensions {shape}, expected 3: one volume")
    return Volume(array, LPS_FROM_RAS @ affine[:3, :3], LPS_FROM_RAS @ affine[:3, 3], notes)


def _scaled(stored: np.ndarray, header: nibabel.Nifti1Header) -> np.ndarray:
    """Apply slope and intercept, in float64."""
    if stored.dtype.names:
        raise UserError(
            f"found {len(stored.dtype.names)} components a voxel (a colour image), expected 1: a "
            "scalar 3D image"
        )
    if stored.dtype.kind == "c":
        raise UserError(f"found values of {stored.dtype.name}, expected real numbers")
    slope, intercept = header.get_slope_inter()
    if slope is None or (slope, intercept) == (1, 0):
        return stored
    with np.errstate(over="ignore"):
        return stored * np.float64(slope) + np.float64(intercept)


def _affine(
    header: nibabel.Nifti1Header, size: tuple[int, ...]
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Choose the affine from index to mm, RAS, and say what contradicts it."""
    unit = int(header["xyzt_units"]) & 7
    if unit not in (UNKNOWN, MM):
        raise UserError(f"found the unit of length {unit}, expected mm (2)")
    sform = header.get_sform() if header["sform_code"] > 0 else None
    qform = header.get_qform() if header["qform_code"] > 0 else None
    for name, form in (("sform", sform), ("qform", qform), ("pixdim", header["pixdim"][1:4])):
        if form is not None and not np.isfinite(form).all():
            raise UserError(f"its {name} holds NaN or infinity; write its header anew")
    if sform is None:
        if qform is not None:
            return qform, ()
        return header.get_base_affine(), (
            "neither sform nor qform says where it lies: its axes are taken for left, anterior, "
            "superior, its centre for 0",
        )
    axes = sform[:3, :3]
    if not plausible(axes) or (qform is None and skew(axes, size) > TOLERANCE):
        return sform, ()  # which is refused
    if (off := skew(axes, size)) > TOLERANCE:
        return qform, (f"its sform is sheared (by {off:.1f} voxels): its qform was used",)
    if qform is None:  # then only pixdim can contradict
        qform = sform.copy()
        qform[:3, :3] *= header["pixdim"][1:4] / np.linalg.norm(axes, axis=0)
    if (off := apart(sform, qform, size)) > TOLERANCE:
        sides = [np.round(np.linalg.norm(form[:3, :3], axis=0), 4) for form in (sform, qform)]
        return sform, (
            f"sform and {'qform' if header['qform_code'] > 0 else 'pixdim'} contradict one another "
            f"by up to {off:.1f} voxels (voxels of {sides[0].tolist()} and {sides[1].tolist()} "
            "mm): the sform was used",
        )
    return sform, ()
