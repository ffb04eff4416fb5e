"""What a network's training is given and hands back, and the state that a killed one leaves."""

import csv
import json
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from avsm.errors import UserError
from avsm.files import file_digest, write_text
from avsm.model import load_checkpoint

log = logging.getLogger(__name__)
MADE_OF = "made_of.json"


@dataclass(frozen=True)
class Training:
    """What a network may know of the run besides its training manifest and its parameters."""

    task: str  # the pairs to train for: longitudinal, cross-subject or both
    seed: int
    threads: int
    labels: tuple[int, ...]  # values of the structures that are scored; for validation only
    models: tuple[Path, ...] = ()  # the trained networks that network.yaml needs, in its order
    # A CSV of couples to train on, with the columns task, fixed, moving (images as in the manifest,
    # relative to the CSV's folder); a task that it has none of takes all there are.
    couples: Path | None = None
    source: Any = None  # an `avsm.data.Source` in place of the manifest's training scans
    start: Path | None = None  # a model whose weights training starts from; None: from nothing


@dataclass(frozen=True)
class Trained:
    """What a training hands back."""

    model: Path  # the file that methods load
    history: Path  # a CSV of the training's course
    curve: Path  # a picture (PNG) of it
    steps: int  # of the optimiser in total, those before a resumption included
    seconds: float  # of training in total, likewise
    device: str = ""  # name of the accelerator that did the work; empty: the processor
    precision: str = ""  # of the network, such as float32; empty: not known


def check_listed(manifest: Path) -> None:
    """Raise `UserError` if images of a training manifest are gone; Snakemake does not look."""
    with manifest.open(newline="", encoding="utf-8") as stream:
        paths = [manifest.parent / row["image"] for row in csv.DictReader(stream)]
    gone = [path for path in paths if not path.is_file()]
    if gone:
        raise UserError(
            f"{manifest}: {len(gone)} of its {len(paths)} images are gone, {gone[0]} the first; "
            "make them again with snakemake --forcerun training_part"
        )


def open_state(state: Path, made_of: dict[str, Any]) -> bool:
    """Return whether a killed training can go on from `state`; make the folder empty if not.

    `made_of` holds all that decides the training. What was begun with something else is deleted:
    a model must not be half of one thing and half of another.
    """
    made_of = json.loads(json.dumps(made_of))
    record = state / MADE_OF
    if record.is_file():
        before = json.loads(record.read_text(encoding="utf-8"))
        keys = [*made_of, *(key for key in before if key not in made_of)]
        changed = [key for key in keys if before.get(key) != made_of.get(key)]
        if not changed:
            log.info("%s: a training that was cut short goes on", state)
            return True
        log.warning("%s: cleared, as it was made with other %s", state, ", ".join(changed))
    # Without a record nothing is known of what lies there.
    shutil.rmtree(state, ignore_errors=True)
    write_text(record, json.dumps(made_of, indent=1) + "\n")
    return False


def start_record(start: Path) -> dict[str, Any]:
    """Return what a training notes of the published model that it started from.

    Steps are those of its weights; seconds, and where they were spent, those of its whole training.
    """
    record = json.loads((start.parent / "models.json").read_text(encoding="utf-8"))
    trained = record["networks"][start.stem]
    return {
        "file": start.name,
        "sha256": file_digest(start),
        "steps": load_checkpoint(start)["step"],
        "seconds": trained["seconds"],
        "device": trained["device"] or trained["processor"],
    }


def check_trained(trained: object, where: str) -> Trained:
    """Return what a training handed back, or raise `UserError`."""
    if not isinstance(trained, Trained):
        raise UserError(f"{where}: train() returned {type(trained).__name__}, expected Trained")
    missing = [
        f"{name} {path}"
        for name in ("model", "history", "curve")
        if not Path(path := getattr(trained, name)).is_file()
    ]
    if missing:
        raise UserError(f"{where}: train() wrote no {', no '.join(missing)}")
    return trained
