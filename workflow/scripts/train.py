"""Train one network; a training that was cut short goes on."""

import csv
import json
import shutil
from importlib import import_module
from pathlib import Path

from avsm.files import file_digest, write_text, written_aside
from workflow.contract.folders import NETWORKS, load_function
from workflow.contract.training import (
    Training,
    check_listed,
    check_trained,
    open_state,
    start_record,
)
from workflow.job import say, start_job
from workflow.provenance import processor, versions

params, threads, output = snakemake.params, snakemake.threads, snakemake.output
start_job(snakemake.log[0], threads, params.seed, snakemake.resources.get("gpu", 0))
network, pairs = snakemake.wildcards.network, snakemake.wildcards.pairs
check_listed(Path(snakemake.input.manifest))
state = Path(params.state)
decided_by = {"params": params.params, "seed": params.seed, "task": pairs, "labels": params.labels}
decided_by |= {"phantoms": params.phantoms, "code": [params.code, *params.imported]}
open_state(state, decided_by | {"inputs": {path: file_digest(path) for path in snakemake.input}})
models = tuple(map(Path, snakemake.input.models))
source, start = None, None
if params.phantoms:
    phantom = import_module("workflow.phantom.people")  # others' networks do not depend on it
    given = tuple(params.size), pairs, Path(params.people_folder), threads
    source = phantom.KneeSource(*given, **params.phantoms)
    source.make_people()
if snakemake.input.start:
    start = Path(snakemake.input.start[0])
context = Training(
    pairs,
    params.seed,
    threads,
    tuple(params.labels),
    models,
    Path(snakemake.input.couples),
    source,
    start,
)
train = load_function(NETWORKS / params.folder, "train").train
trained = check_trained(
    train(Path(snakemake.input.manifest), state, dict(params.params), context), network
)
for name in ("model", "history", "curve"):
    with written_aside(output[name]) as aside:
        shutil.copy(getattr(trained, name), aside)
record = {
    "network": network,
    "label": params.label,
    "pairs": pairs,
    "steps": trained.steps,
    "seconds": trained.seconds,
    "device": trained.device,
    "precision": trained.precision,
    "start": start and start_record(start),
    "phantoms": params.phantoms,
    "threads": threads,
    "processor": processor(),
    "params": params.params,
    "seed": params.seed,
    "versions": versions(params.modules),
}
with Path(output.history).open(newline="", encoding="utf-8") as file:
    best = max(float(row["validation_dice"]) for row in csv.DictReader(file))
say(
    f"{params.label}, {pairs}: trained for {trained.steps} steps in {trained.seconds:.0f} s, "
    f"validation Dice {100 * best:.1f}"
)
write_text(output.record, json.dumps(record, indent=1) + "\n")
shutil.rmtree(state)
