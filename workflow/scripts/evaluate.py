"""Score one shard of one method."""

import json
from importlib import import_module
from pathlib import Path

from avsm.files import write_text
from workflow.job import start_job
from workflow.referee.evaluate import Rules, evaluate_shard

start_job(snakemake.log[0], snakemake.threads)
labels = {Path(path).name.removesuffix(".nii"): path for path in snakemake.input.labels}
record = json.loads(Path(snakemake.input.outcomes).read_text(encoding="utf-8"))
params, truth = snakemake.params, None
if params.phantom:
    phantom = import_module("workflow.phantom.labels")  # other cohorts go without
    truth = phantom.PhantomTruth(**params.phantom)
rules = Rules(params.structures, params.margin, truth)
table = evaluate_shard(record, Path(snakemake.input.fields), labels.__getitem__, rules)
write_text(snakemake.output[0], table.to_csv(index=False))
