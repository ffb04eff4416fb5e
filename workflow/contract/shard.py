"""The harness: registers a shard of pairs with one method and records how each went."""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import SimpleITK as sitk

from avsm.files import write_text
from workflow.contract.methods import load_register
from workflow.contract.registration import Context, Outcome, Pair, register_pair
from workflow.contract.worker import Worker, WorkerDiedError
from workflow.images import read_image, write_image

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Start:
    """What another method left of a pair: its displacement field, if it did not fail."""

    field: Path
    outcome: Outcome


@dataclass(frozen=True)
class _Loaded:
    """A method in its worker process: its module, parameters and context."""

    module: ModuleType
    params: dict[str, Any]
    context: Context


def set_threads(threads: int, seed: int = 0) -> None:
    """Tell every tool its thread count and seed; call before a method's module is imported."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    os.environ["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] = str(threads)
    os.environ["ANTS_RANDOM_SEED"] = str(seed)
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)


def register_shard(
    method: Path,
    params: dict[str, Any],
    pairs: Sequence[Pair],
    image_path: Callable[[str], str],
    fields: Path,
    context: Context,
    limit: float | None = None,
    starts: Mapping[Pair, Start] | None = None,
) -> list[Outcome]:
    """Register directed pairs and write one field for each success.

    A pair that fails, even by a crash of the method's process or by taking too long, becomes an
    `Outcome` with its reason; the others go on.

    Parameters
    ----------
    method : the method's folder.
    pairs : ``(task, fixed, moving)``.
    image_path : gives the path of a scan's preprocessed image.
    fields : folder for the displacement fields, see `field_path`.
    context : its folder and prepared state are replaced by the pair's own.
    limit : the most seconds that one registration may take; None: no limit.
    starts : of a method that starts from another's results, those of each pair. Where the other
        one failed, so does the method.

    Raises
    ------
    ContractError
        If a field breaks the contract, which is the method's fault in general.
    """
    fields.mkdir(parents=True, exist_ok=True)
    outcomes: list[Outcome] = []
    worker = None
    # A worker that nobody closes keeps this process from ending.
    with tempfile.TemporaryDirectory(prefix="registration-") as scratch, ExitStack() as workers:
        for number, pair in enumerate(pairs, start=1):
            paths = image_path(pair[1]), image_path(pair[2])
            start = starts[pair] if starts else None
            if start and start.outcome.status != "ok":
                reason = f"its start failed: {start.outcome.reason}"
                outcomes.append(Outcome(*pair, "failed", reason))
                continue
            try:
                if worker is None:
                    worker = Worker(lambda: _load(method, params, context, Path(scratch)), limit)
                    workers.callback(worker.close)
                field = field_path(fields, *pair[1:])
                outcome = worker.call(_register, pair, paths, field, start and start.field)
                if start and outcome.seconds is not None:
                    outcome = replace(outcome, seconds=outcome.seconds + start.outcome.seconds)
            except WorkerDiedError as error:
                worker, outcome = None, Outcome(*pair, "failed", str(error))
            outcomes.append(outcome)
            note = outcome.reason or f"{outcome.seconds:.2f} s"
            counted = f"{number}/{len(pairs)}"
            log.info("%s %s <- %s %s: %s", counted, *pair[1:], outcome.status, note)
    return outcomes


def _load(method: Path, params: dict[str, Any], context: Context, scratch: Path) -> _Loaded:
    """Import the method and let it prepare, once for the shard and off the clock."""
    module = load_register(method)
    context = replace(context, folder=scratch)
    if hasattr(module, "prepare"):
        context = replace(context, prepared=module.prepare(dict(params), context))
    return _Loaded(module, params, context)


def _register(
    loaded: _Loaded, pair: Pair, paths: tuple[str, str], field: Path, start: Path | None
) -> Outcome:
    """Register one pair in a scratch folder of its own and write its field."""
    images = read_image(paths[0]), read_image(paths[1])
    folder = Path(tempfile.mkdtemp(dir=loaded.context.folder))
    before = None if start is None else sitk.ReadImage(str(start))
    context = replace(loaded.context, folder=folder, start=before)
    outcome, displacement = register_pair(
        loaded.module.register, images, loaded.params, context, pair
    )
    shutil.rmtree(folder)
    if displacement is not None:
        write_image(displacement, field)
    return outcome


def field_path(fields: Path, fixed: str, moving: str) -> Path:
    """Return where the displacement field of a directed pair lies."""
    return fields / f"{fixed}__{moving}.nii"


def read_starts(folders: Sequence[Path], records: Sequence[Path]) -> dict[Pair, Start]:
    """Return what shards of a method left of each pair: folders of fields, outcomes' JSONs."""
    found = {}
    for folder, record in zip(folders, records, strict=True):
        for one in json.loads(record.read_text(encoding="utf-8"))["registrations"]:
            outcome = Outcome(**one)
            pair = outcome.task, outcome.fixed, outcome.moving
            found[pair] = Start(field_path(folder, *pair[1:]), outcome)
    return found


def write_outcomes(path: Path, outcomes: Sequence[Outcome], circumstances: dict) -> None:
    """Write a shard's JSON: the circumstances (method, device, …) and every outcome."""
    content = circumstances | {"registrations": [asdict(outcome) for outcome in outcomes]}
    write_text(path, json.dumps(content, indent=1) + "\n")
