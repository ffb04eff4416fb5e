"""Judge the paper's claims by this run."""

from pathlib import Path

import yaml

from workflow.files import write_text
from workflow.job import start_log
from workflow.referee import claims
from workflow.referee.render import write_tables
from workflow.referee.tidy import read_metrics

start_log(snakemake.log[0])
metrics = read_metrics(snakemake.input.metrics)
params, output = snakemake.params, snakemake.output
said = yaml.safe_load(Path(snakemake.input.claims).read_text(encoding="utf-8"))
table = claims.judge(
    said, metrics, params.methods, params.tasks, params.patients, params.seed, params.rows
)
labels = {method["id"]: method["label"] for method in params.methods}
notes = [
    "Supported or contradicted: the 95 % interval by patients lies where the claim has it, or "
    "where it cannot be. Little and saturate: within 2 and 1 Dice points. Not tested: the run "
    "lacks a method."
]
write_text(output.csv, table.to_csv(index=False))
text = claims.formatted(table, labels)
write_tables(output[1:], "The paper's claims", {"": text}, notes)
