"""Score one shard of one method."""

from functools import partial
from importlib import import_module
from pathlib import Path

from avsm.files import write_text
from workflow.job import say, start_job
from workflow.referee.evaluate import Rules, evaluate_shard
from workflow.referee.tidy import pair_values, read_json

start_job(snakemake.log[0], snakemake.threads)
inputs, params, to_template = snakemake.input, snakemake.params, None
labels = {Path(path).name.removesuffix(".nii"): path for path in inputs.labels}
if phantom := params.phantom:
    truth = import_module("workflow.phantom.labels")  # other cohorts go without
    to_template = partial(truth.index_to_template, **phantom)
rules = Rules(params.structures, params.margin, to_template)
record = read_json(inputs.outcomes)
table = evaluate_shard(record, Path(inputs.fields), labels.__getitem__, rules)
write_text(snakemake.output[0], table.to_csv(index=False))
for task, pairs in pair_values(table).groupby("task"):
    scored = pairs[pairs["reason"] == ""]
    text = f"{record['method']}, {task}: {len(scored)} of {len(pairs)} pairs"
    if len(scored):
        text += f", Dice {scored['dice'].mean():.1f}, {scored['seconds'].mean():.1f} s a pair"
    say(text)
