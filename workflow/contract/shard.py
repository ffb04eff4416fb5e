"""The harness: registers a shard of pairs with one method and records how each went."""

import json
import logging
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from avsm.files import write_text
from avsm.images import read_image, write_image
from workflow.contract.folders import load_function
from workflow.contract.registration import Context, Outcome, Pair, register_pair
from workflow.contract.worker import Worker, WorkerDiedError

log = logging.getLogger(__name__)
Loaded = tuple[ModuleType, dict[str, Any], Context]  # a method in its worker process


def register_shard(
    method: Path,
    params: dict[str, Any],
    pairs: Sequence[Pair],
    image_path: Callable[[str], str],
    fields: Path,
    context: Context,
    limit: float | None = None,
    starts: Mapping[Pair, Outcome] | None = None,
) -> list[Outcome]:
    """Register directed pairs by the method of a folder; write one field for each success.

    A pair that fails, even by a crash of the method's process or by taking too long, becomes an
    `Outcome` with its reason; the others go on. A field that breaks the contract is a `UserError`.

    `image_path` gives the path of a scan's preprocessed image. The context's folder and prepared
    state are replaced by the pair's own. One registration may take `limit` seconds. `starts` says,
    for a method that starts from another's maps, how each pair went there: where that failed, so
    does the method.
    """
    fields.mkdir(parents=True, exist_ok=True)
    outcomes: list[Outcome] = []
    worker = None
    # A worker that nobody closes keeps this process from ending.
    with tempfile.TemporaryDirectory(prefix="registration-") as scratch, ExitStack() as workers:
        for number, pair in enumerate(pairs, start=1):
            paths = image_path(pair[1]), image_path(pair[2])
            start = None if starts is None else starts[pair]
            if start and start.affine is None:
                reason = f"its start failed: {start.reason or 'it gave no affine map'}"
                outcome = Outcome(*pair, "failed", reason)
            else:
                field = field_path(fields, *pair[1:])
                try:
                    if worker is None:
                        load = partial(_load, method, params, context, Path(scratch))
                        worker = Worker(load, limit)
                        workers.callback(worker.close)
                    outcome = worker.call(_register, pair, paths, field, start and start.affine)
                except WorkerDiedError as error:
                    worker, outcome = None, Outcome(*pair, "failed", str(error))
                if start and outcome.seconds is not None:
                    outcome = replace(outcome, seconds=outcome.seconds + start.seconds)
            outcomes.append(outcome)
            note = outcome.reason or f"{outcome.seconds:.2f} s"
            counted = f"{number}/{len(pairs)}"
            log.info("%s %s <- %s %s: %s", counted, *pair[1:], outcome.status, note)
    return outcomes


def _load(method: Path, params: dict[str, Any], context: Context, scratch: Path) -> Loaded:
    """Import the method and let it prepare, once for the shard and off the clock."""
    module = load_function(method, "register")
    context = replace(context, folder=scratch)
    if hasattr(module, "prepare"):
        context = replace(context, prepared=module.prepare(dict(params), context))
    return module, params, context


def _register(
    loaded: Loaded, pair: Pair, paths: tuple[str, str], field: Path, start: Sequence | None
) -> Outcome:
    """Register one pair in a scratch folder of its own and write its field."""
    module, params, context = loaded
    images = read_image(paths[0]), read_image(paths[1])
    folder = Path(tempfile.mkdtemp(dir=context.folder))
    affine = start and (np.array(start[:3]), np.array(start[3]))
    context = replace(context, folder=folder, start=affine)
    outcome, displacement = register_pair(module.register, images, params, context, pair)
    shutil.rmtree(folder)
    if displacement is not None:
        write_image(displacement, field)
    return outcome


def field_path(fields: Path, fixed: str, moving: str) -> Path:
    """Return where the displacement field of a directed pair lies."""
    return fields / f"{fixed}__{moving}.nii"


def read_starts(records: Sequence[Path]) -> tuple[dict[Pair, Outcome], dict[str, Any]]:
    """Return how each pair of another method's shards went, and what the last record says besides.

    The latter is the method, its parameters, and where and with what its seconds were measured.
    """
    found, rest = {}, {}
    for record in records:
        rest = json.loads(record.read_text(encoding="utf-8"))
        for one in rest.pop("registrations"):
            outcome = Outcome(**one)
            found[outcome.task, outcome.fixed, outcome.moving] = outcome
    return found, rest


def write_outcomes(path: Path, outcomes: Sequence[Outcome], circumstances: dict) -> None:
    """Write a shard's JSON: the circumstances (method, device, …) and every outcome."""
    content = circumstances | {"registrations": [asdict(outcome) for outcome in outcomes]}
    write_text(path, json.dumps(content, indent=1) + "\n")
