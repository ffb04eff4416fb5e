"""python -m workflow.data.oai: index a release of the Osteoarthritis Initiative as a manifest."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from avsm.errors import UserError
from workflow.data.oai.cohort import Request, index_release
from workflow.data.oai.release import VISITS

DESCRIPTION = """\
Index an OAI release: write a manifest of its sagittal DESS scans for this benchmark.

A release is a folder with image folders <visit>.<x>/<patient>/<date>/<series> and the tables
contents.<x>.csv or image03.txt that came with them. Only headers are read. Patients with label maps
are tested on, all others are dealt into training and validation. What is left out, and why, is
listed in <out>.excluded.csv. A run that was stopped goes on when the command is given again."""
EXAMPLE = """\
example, the cohort of the AVSM paper:
  python -m workflow.data.oai /data/OAI --labels /data/iMorphics --out oai.csv \\
    --visits 00m 12m 24m 36m 48m 72m --validation-labels /data/automatic"""


def parse(arguments: list[str]) -> Request:
    """Turn the command line into a request."""
    parser = argparse.ArgumentParser(
        prog="python -m workflow.data.oai",
        description=DESCRIPTION,
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("releases", nargs="+", type=Path, metavar="RELEASE", help="folder of an OAI release")
    add(
        "--labels",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="label maps of the patients to test on; the patient's number is in each name",
    )
    add("--validation-labels", type=Path, metavar="FOLDER",
        help="label maps of other patients, automatic ones say: those of validation patients "
        "choose the weights of networks, the rest is not used")  # fmt: skip
    add("--out", type=Path, required=True, metavar="CSV", help="the manifest to write")
    add("--visits", nargs="+", choices=[*VISITS.values()], metavar="VISIT",
        help="scans of these visits only and, of patients without label maps, only knees that were "
        f"scanned at all of them (default: all; known: {' '.join(VISITS.values())})")  # fmt: skip
    add("--expect", type=_size, default=(160, 384, 384), metavar="SIZE",
        help="voxels left-right x front-back x bottom-top; others are excluded "
        "(default: 160x384x384)")  # fmt: skip
    add("--seed", type=int, default=2019, help="of training and validation (default: 2019)")
    add("--threads", type=int, default=4, help="that read headers (default: 4)")
    return Request(**vars(parser.parse_args(arguments)))


def _size(text: str) -> tuple[int, ...]:
    """Read a size such as 160x384x384."""
    parts = text.split("x")
    if len(parts) != 3 or not all(part.isdecimal() and int(part) for part in parts):
        raise argparse.ArgumentTypeError(f"found '{text}', expected a size such as 160x384x384")
    return tuple(map(int, parts))


def main() -> int:
    """Run the command; 0 after success."""
    request = parse(sys.argv[1:])
    try:
        print(index_release(request))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
