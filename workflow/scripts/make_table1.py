"""Make Table 1."""

import json
from pathlib import Path

import pandas as pd

from avsm.files import write_text
from workflow.job import start_log
from workflow.referee import table1
from workflow.referee.notes import notes, warning_note
from workflow.referee.render import write_tables
from workflow.referee.tidy import read_metrics

start_log(snakemake.log[0])
metrics = read_metrics(snakemake.input.metrics)
records, trainings = (
    [json.loads(Path(path).read_text(encoding="utf-8")) for path in paths]
    for paths in (snakemake.input.outcomes, snakemake.input.trainings)
)
params, output = snakemake.params, snakemake.output
paper = pd.read_csv(snakemake.input.paper) if params.paper else None
table = table1.summarise(metrics, params.methods, params.tasks, records, paper)
lines = notes(
    metrics, params.methods, table, params.grid, params.networks, trainings, params.images
)
cohort = json.loads(Path(snakemake.input.cohort).read_text(encoding="utf-8"))
lines += warning_note(cohort["warnings"])
write_text(output.csv, table.to_csv(index=False))
write_tables(output[1:], "Table 1", {"": table1.formatted(table)}, lines)
