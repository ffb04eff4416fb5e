"""The commands that register: ``avsm register``, ``warp``, ``points`` and ``info``."""

import argparse
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from avsm.errors import UserError, raise_all

log = logging.getLogger("avsm")
PAIR_COLUMNS = ("fixed", "moving")
AXES = ("x", "y", "z")
OUTSIDE = "value of WARPED where it shows nothing of the image (default: the image's lowest)"
REFINE = "optimise one vSVF step on this pair for N iterations (default: 0)"
REFINE_AFFINE = "with --refine: optimise the affine parameters before"
SIZE = (
    "voxels of the grid to optimise on, 16 or more a side (default: FIXED's own, at most 3 million)"
)

REGISTER = """\
Register MOVING to FIXED, two 3D images of one anatomy with any size, spacing, orientation and
position: NIfTI, MetaImage, NRRD, a folder with one DICOM series or a DICOM file of several frames.

Without --model the affine parameters and then a momentum of this very pair are optimised, whatever
the anatomy; a minute or two on a processor. With --model networks predict them in a second, for the
anatomy that they were trained on: --model knee takes those that come with the project (right knees,
simulated MR; --mirror for left ones), --model DIR your own, --refine N optimises what they predict.
"""
REGISTER_END = """\
The transform is a displacement field in mm (ITK convention: x_moving = x_fixed + u) on FIXED's
grid. SimpleITK, ANTs and 3D Slicer apply it as is, to labels too, as does avsm warp.

--pairs CSV registers many pairs, the model loaded once: the CSV has the columns fixed, moving
(relative to it) and name, and the folder --out gets NAME_warped.nii.gz and NAME_field.nii.gz.
Pairs whose two files are there already are left out.

examples
  avsm register a.nii b.nii --out warped.nii --transform field.nii
  avsm register a.nii b.nii --model knee --refine 10 --out warped.nii
  avsm register a.nii b.nii --model model --steps 0 --out affine.nii        affine alone
  avsm register --pairs pairs.csv --model knee --out folder
"""
WARP = """\
Move an image as a registration says: through the displacement field of avsm register, on the
grid of --reference (without it on the field's, which is that of the fixed image).
"""
POINTS = """\
Move landmarks: points of the fixed image to where they lie in the moving one, or with --inverse
points of the moving image to where they lie in the fixed one.

POINTS is a CSV with the columns x, y and z in mm (others are kept), in ITK's frame (LPS), or with
--frame ras in that of NIfTI, nibabel and FreeSurfer.
"""


def at_least(least: int) -> Any:
    """Make a parser of whole numbers from ``least``."""

    def parse(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"expected at least {least}, found {value}")
        return value

    parse.__name__ = "whole number"  # argparse names it in its message
    return parse


def add_common(parser: argparse.ArgumentParser) -> None:
    """Add the options of every command that computes."""
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps (default: auto)")
    parser.add_argument("--threads", type=at_least(1), help="processor threads (default: all)")


def add_register(commands: Any) -> None:
    """Add the parsers of the four commands."""
    parser = commands.add_parser(
        "register", help="register two images, or many pairs", description=REGISTER,
        epilog=REGISTER_END,
    )  # fmt: skip
    add = parser.add_argument
    add("fixed", type=Path, nargs="?", metavar="FIXED", help="the image that stays")
    add("moving", type=Path, nargs="?", metavar="MOVING", help="the image that is warped to it")
    add("--pairs", type=Path, metavar="CSV", help="many pairs in place of FIXED and MOVING")
    add("--model", type=Path, help="knee, a training folder or a checkpoint (default: optimise)")
    add("--out", type=Path, metavar="WARPED", help="warped moving image; of --pairs: a folder")
    add("--transform", type=Path, metavar="FIELD", help="displacement field to write")
    add("--steps", type=at_least(0), help="vSVF steps; 0: affine alone (default: the model's)")
    add("--affine-steps", type=at_least(1), help="affine steps (default: the model's)")
    add("--refine", type=at_least(0), default=0, metavar="N", help=REFINE)
    add("--refine-affine", action="store_true", help=REFINE_AFFINE)
    add("--size", metavar="X,Y,Z", help=SIZE)
    add("--normalised", action="store_true", help="intensities are in [0, 1]: keep them")
    add("--mirror", action="store_true", help="the other side of the body than in training")
    add("--outside", type=float, metavar="VALUE", help=OUTSIDE)
    add_common(parser)
    parser.set_defaults(run=run_register)

    parser = commands.add_parser("warp", help="move an image by a transform", description=WARP)
    add = parser.add_argument
    add("image", type=Path, metavar="IMAGE", help="an image or label map of the moving image")
    add("--transform", type=Path, required=True, metavar="FIELD", help="displacement field")
    add("--out", type=Path, required=True, metavar="WARPED", help="image to write")
    add("--reference", type=Path, metavar="FIXED", help="image whose grid WARPED has")
    add("--label", action="store_true", help="a label map: nearest neighbour, values are kept")
    add("--outside", type=float, metavar="VALUE", help=f"{OUTSIDE}; of a label map 0")
    parser.set_defaults(run=run_warp)

    parser = commands.add_parser("points", help="move landmarks by a transform", description=POINTS)
    add = parser.add_argument
    add("points", type=Path, metavar="POINTS", help="CSV of landmarks")
    add("--transform", type=Path, required=True, metavar="FIELD", help="displacement field")
    add("--out", type=Path, required=True, metavar="CSV", help="CSV to write")
    add("--inverse", action="store_true", help="from the moving image to the fixed one")
    add("--frame", choices=("lps", "ras"), default="lps", help="of the points (default: lps)")
    parser.set_defaults(run=run_points)

    parser = commands.add_parser("info", help="say what a model is and how it was trained")
    parser.add_argument("model", type=Path, metavar="MODEL", help="knee, a folder or a checkpoint")
    parser.set_defaults(run=run_info)


class Pair(NamedTuple):
    """Two image files, and what is written of their registration."""

    fixed: Path
    moving: Path
    outputs: dict[str, Path]  # by the fields of ``registration.Result``


def run_register(arguments: argparse.Namespace) -> None:
    """Carry out ``avsm register``."""
    from avsm.images import read_image, write_image
    from avsm.model import load_model
    from avsm.registration import check_options, register

    size = parse_size(arguments.size)
    pairs = _pairs(arguments)
    model = load_model(arguments.model) if arguments.model else None
    options = (arguments.affine_steps, arguments.steps, arguments.refine, arguments.refine_affine)
    check_options(model, *options, size)
    faults = []
    for number, pair in enumerate(pairs, start=1):
        try:
            result = register(
                read_image(pair.fixed), read_image(pair.moving), model, *options,
                arguments.normalised, arguments.mirror, arguments.device, size,
                outside=arguments.outside,
            )  # fmt: skip
            for name, path in pair.outputs.items():
                write_image(getattr(result, name), path)
                log.info("%s: %s", name, path)
        except (ValueError, ArithmeticError, RuntimeError, OSError) as error:
            if arguments.pairs is None:
                raise
            log.error("pair %d of %d: %s", number, len(pairs), error)
            faults.append(f"{pair.fixed} and {pair.moving}: {error}")
        if arguments.pairs is not None:
            log.info("%d of %d pairs done", number, len(pairs))
    raise_all(f"{len(faults)} of {len(pairs)} pairs were not registered:", faults)


def _pairs(arguments: argparse.Namespace) -> list[Pair]:
    """Give the pairs that a command asks for and that are not done yet."""
    from avsm.images import check_output

    if arguments.pairs is None:
        if arguments.fixed is None or arguments.moving is None:
            raise UserError("register: expected FIXED and MOVING, or --pairs CSV")
        outputs = {"warped": arguments.out, "displacement": arguments.transform}
        wanted = {name: check_output(path) for name, path in outputs.items() if path is not None}
        if not wanted:
            raise UserError("register: nothing to write; give --out, --transform or both")
        check_apart([arguments.fixed, arguments.moving], wanted.values())
        return [Pair(arguments.fixed, arguments.moving, wanted)]
    if arguments.fixed is not None or arguments.transform is not None or arguments.out is None:
        raise UserError("register --pairs: expected --out FOLDER, no FIXED, MOVING or --transform")
    listed = list(_listed(arguments.pairs, arguments.out))
    if not listed:
        raise UserError(f"{arguments.pairs}: found no pair")
    read = [arguments.pairs, *(image for pair in listed for image in (pair.fixed, pair.moving))]
    check_apart(read, (path for pair in listed for path in pair.outputs.values()))
    left = [p for p in listed if not all(path.is_file() for path in p.outputs.values())]
    if len(left) < len(listed):
        log.info("%d of %d pairs are there already", len(listed) - len(left), len(listed))
    return left


def _listed(path: Path, folder: Path) -> Iterator[Pair]:
    """Read the CSV of ``--pairs``."""
    from avsm.files import read_table

    faults, names = [], set()
    for line, row in read_table(path, "--pairs", PAIR_COLUMNS)[1].items():
        fixed, moving = (path.parent / row[column] for column in PAIR_COLUMNS)
        stems = [file.name.removesuffix(".gz").rsplit(".", 1)[0] for file in (fixed, moving)]
        name = row.get("name") or "_".join(stems)
        faults += [f"line {line}: {f}: no such file" for f in (fixed, moving) if not f.exists()]
        if name in names or Path(name).name != name:
            faults.append(f"line {line}: name '{name}': expected one of its own, without folders")
        names.add(name)
        files = {"warped": f"{name}_warped.nii.gz", "displacement": f"{name}_field.nii.gz"}
        yield Pair(fixed, moving, {kind: folder / file for kind, file in files.items()})
    raise_all(f"{path}: the list of pairs has faults:", faults)


def run_warp(arguments: argparse.Namespace) -> None:
    """Carry out ``avsm warp``."""
    import SimpleITK as sitk

    from avsm.fields import warp_image
    from avsm.grid import LIKE_LABELS, has_few_values
    from avsm.images import check_output, read_field, read_image, write_image

    path = check_output(arguments.out)
    check_apart([arguments.image, arguments.transform, arguments.reference], [path])
    reference = read_image(arguments.reference) if arguments.reference else None
    image, field = read_image(arguments.image), read_field(arguments.transform)
    warped = warp_image(image, field, arguments.label, reference, arguments.outside)
    if not arguments.label and has_few_values(image):
        log.warning(
            "%s: %s: --label keeps them, here they are averaged", arguments.image, LIKE_LABELS
        )
    before, after = (sitk.GetArrayViewFromImage(each) for each in (image, warped))
    if before.min() < before.max() and after.min() == after.max():
        log.warning("%s: shows nothing of %s; is it the moving image?", path, arguments.image)
    write_image(warped, path)
    log.info("warped: %s", path)


def run_points(arguments: argparse.Namespace) -> None:
    """Carry out ``avsm points``."""
    import numpy as np

    from avsm.fields import move_points
    from avsm.files import read_table, write_rows
    from avsm.images import read_field

    check_apart([arguments.points, arguments.transform], [arguments.out])
    (columns, rows), faults, points = read_table(arguments.points, "POINTS", AXES), [], []
    for line, row in rows.items():
        try:
            points.append([float(row[axis]) for axis in AXES])
            if not np.isfinite(points[-1]).all():
                raise ValueError
        except ValueError:
            found = ", ".join(f"'{row[axis]}'" for axis in AXES)
            faults.append(f"line {line}: expected three numbers, found {found}")
    raise_all(f"{arguments.points}: the landmarks have faults:", faults)
    sign = np.array([-1, -1, 1] if arguments.frame == "ras" else [1, 1, 1])
    field = read_field(arguments.transform)
    moved = sign * move_points(sign * np.reshape(points, (-1, 3)), field, arguments.inverse)
    there = [
        row | {axis: f"{value:.4f}" for axis, value in zip(AXES, point, strict=True)}
        for row, point in zip(rows.values(), moved.tolist(), strict=True)
    ]
    write_rows(arguments.out, columns, there)
    log.info("points: %s", arguments.out)


def run_info(arguments: argparse.Namespace) -> None:
    """Carry out ``avsm info``."""
    from avsm.model import describe_file

    print(describe_file(arguments.model))


def check_apart(inputs: Iterable[Path | None], outputs: Iterable[Path]) -> None:
    """Raise UserError if a file to write is one to read, or two are one."""
    taken = {path.resolve() for path in inputs if path is not None}
    for path in outputs:
        if path.resolve() in taken:
            raise UserError(f"{path}: is to be written, and is an input or another output")
        taken.add(path.resolve())


def parse_size(text: str | None) -> tuple[int, ...] | None:
    """Read three numbers of voxels, such as ``96,96,40``."""
    if text is None:
        return None
    parts = text.split(",")
    if len(parts) != 3 or not all(part.strip().isdecimal() and int(part) > 1 for part in parts):
        raise UserError(f"--size: expected three numbers such as 96,96,40, found '{text}'")
    return tuple(int(part) for part in parts)
