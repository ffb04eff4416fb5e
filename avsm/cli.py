"""The command line: ``avsm train`` here, the commands that register in ``cli_register``."""

import argparse
import functools
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from avsm.cli_register import add_common, add_register, parse_size
from avsm.errors import UserError, choose

log = logging.getLogger("avsm")

MAIN = """\
Register 3D images with AVSM: an affine network, then a momentum network whose momentum moves the
map (Shen et al., Networks for Joint Affine and Non-parametric Image Registration, CVPR 2019), or
the same maps optimised on the pair itself.

  avsm register fixed.nii.gz moving.nii.gz --out warped.nii.gz --transform field.nii.gz
  avsm register fixed.nii.gz moving.nii.gz --model knee --out warped.nii.gz
  avsm warp label.nii.gz --transform field.nii.gz --label --out moved.nii.gz
  avsm train scans.csv --out model --preset small      networks of your own images
"""
TRAIN = """\
Train the affine network, then the momentum network with the affine part fixed.

MANIFEST is a CSV with the columns
  subject   who was scanned
  image     file (or DICOM folder), relative to the CSV: with --size any 3D image, else one that is
            preprocessed (intensities in [0, 1], all of one size)
  split     train or validation (rows with test are left out)
  label     label map on the image's grid; optional for training, needed for validation
  visit     when; the task longitudinal needs it
  side      left or right; optional; a pair has one side
  mirrored  yes where a prepared image was reflected, as --mirror-left does; optional

--couples names a CSV with the columns task (longitudinal or cross-subject), fixed and moving
(images of the manifest, relative to the CSV). Without it, pairs are drawn from all there are.

The folder --out gets affine/best.pt and momentum/best.pt (weights with the best validation Dice),
last.pt beside them (to resume from), history.csv and history.png. A run that was killed goes on
where it was: give the same command again.
"""
TRAIN_END = """\
presets
  paper   section 3 of the paper: 200 epochs of 400 pairs a network; for a GPU
  small   for a processor: about --minutes 10 to 30 a network on two cores; narrower networks,
          images of half the resolution first, a moving average of the weights

examples
  avsm train scans.csv --out model --size 40,96,96 --minutes 20
  avsm train prepared.csv --out model --preset small --task longitudinal --minutes 20
  avsm train scans.csv --out model --preset paper --device cuda
  avsm train scans.csv --out stage2 --stage momentum --start model/affine \\
      --set momentum.rate=2e-4
"""


def build_parser() -> argparse.ArgumentParser:
    """Make the parser of the command line."""
    as_written = functools.partial(
        argparse.ArgumentParser, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser = as_written("avsm", description=MAIN)
    parser.set_defaults(threads=None)  # of commands that do not compute
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="COMMAND", parser_class=as_written
    )
    _add_train(commands)
    add_register(commands)
    for command in commands.choices.values():
        command.add_argument("--debug", action="store_true", help="show where an error arose")
    return parser


def _add_train(commands: Any) -> None:
    parser = commands.add_parser(
        "train", help="train a model on your own scans", description=TRAIN, epilog=TRAIN_END
    )
    add = parser.add_argument
    add("manifest", type=Path, metavar="MANIFEST", help="CSV of the scans, see above")
    add("--out", type=Path, required=True, metavar="DIR", help="folder of the run")
    add(
        "--size",
        metavar="X,Y,Z",
        help="bring the scans to a grid of so many voxels over each one's field of view, and their "
        "intensities to [0, 1]; kept in DIR/scans",
    )
    add("--mirror-left", action="store_true", help="with --size: reflect scans of the left side")
    add("--preset", default="small", help="small or paper (default: small)")
    add("--couples", type=Path, metavar="CSV", help="couples to train on, see above (default: all)")
    add("--task", default="cross-subject", help="longitudinal, cross-subject (the default) or both")
    add("--stage", default="both", help="affine, momentum or both (default: both)")
    add("--start", type=Path, metavar="MODEL", help="start from a model's weights")
    add("--minutes", type=float, help="time for each network, in place of the preset's epochs")
    add("--labels", metavar="V,V", help="label values that validation scores (default: all)")
    add("--seed", type=int, help="of everything random (default: the preset's)")
    add(
        "--set", action="append", default=[], metavar="NAME=VALUE",
        help="change a setting of the preset, such as affine.epochs=20; repeatable",
    )  # fmt: skip
    add("--no-resume", action="store_true", help="start anew even where DIR holds a run")
    add("--memory", type=float, default=8, metavar="GB", help="most memory for images (default: 8)")
    add_common(parser)
    parser.set_defaults(run=run_train)


def run_train(arguments: argparse.Namespace) -> None:
    """Carry out ``avsm train``."""
    from avsm.device import find_device
    from avsm.model import find_checkpoint
    from avsm.prepare import prepare
    from avsm.settings import recipe_preset
    from avsm.train import STAGES, train

    changes = dict(_setting(text) for text in arguments.set)
    if arguments.minutes is not None:
        changes |= {f"{stage}.max_minutes": arguments.minutes for stage in STAGES}
    if arguments.seed is not None:
        changes["seed"] = arguments.seed
    stage = choose("--stage", arguments.stage, (*STAGES, "both"))
    recipe = recipe_preset(arguments.preset, arguments.task).change(changes)
    labels, size = _numbers(arguments.labels), parse_size(arguments.size)
    manifest = arguments.manifest
    find_device(arguments.device)
    start = [find_checkpoint(arguments.start)] if arguments.start else []
    if size is None and arguments.mirror_left:
        raise UserError("--mirror-left: expected --size, with which scans are prepared")
    if size is not None and arguments.couples:
        raise UserError("--couples: names prepared images; with --size all couples are drawn")
    if size is not None:
        manifest = prepare(manifest, arguments.out / "scans", size, arguments.mirror_left)
    stages = STAGES if stage == "both" else (stage,)
    best = train(
        manifest, arguments.out, recipe, stages, start, labels, arguments.device,
        not arguments.no_resume, arguments.memory, arguments.couples,
    )  # fmt: skip
    log.info("best weights: %s", best)


def _setting(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise UserError(f"--set: expected NAME=VALUE, found '{text}'")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


def _numbers(text: str | None) -> list[int] | None:
    if text is None:
        return None
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"--labels: expected numbers such as 2,4, found '{text}'") from None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; 0 for success, 2 for an error of the user's, 1 for another."""
    parsed = build_parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    if parsed.threads:
        import torch

        torch.set_num_threads(parsed.threads)
    try:
        parsed.run(parsed)
    except ValueError as error:  # the library's errors about what it was given
        log.error("avsm %s: error: %s", parsed.command, error, exc_info=parsed.debug)
        return 2
    except (OSError, RuntimeError, ArithmeticError) as error:  # the machine's, or the numbers'
        log.error("avsm %s: failed: %s", parsed.command, error, exc_info=parsed.debug)
        return 1
    except KeyboardInterrupt:
        again = "; the same command goes on" if parsed.command == "train" else ""
        log.error("stopped%s", again)
        return 130
    return 0
