"""Make Table 1."""

import pandas as pd

from workflow.job import say, start_log
from workflow.referee import table1
from workflow.referee.render import write_table
from workflow.referee.tidy import read_json, read_metrics

start_log(snakemake.log[0])
inputs, params = snakemake.input, snakemake.params
metrics = read_metrics(*inputs.scores)
records, trainings = ([*map(read_json, paths)] for paths in (inputs.outcomes, inputs.trainings))
paper = pd.read_csv(table1.PUBLISHED) if params.paper else None
table = table1.compute(metrics, params.methods, params.tasks, records, paper)
notes = table1.notes(
    metrics, params.methods, table, params.grid, params.networks, trainings, params.images
)
notes += table1.warning_note(read_json(inputs.cohort)["warnings"])
write_table(snakemake.output, "Table 1", table, {"": table1.formatted(table)}, notes)
say(f"Table 1: {snakemake.output[0]}")
