"""Make Table 2."""

import json
from pathlib import Path

import pandas as pd

from avsm.files import write_text
from workflow.job import start_log
from workflow.referee import table2, table3
from workflow.referee.render import write_tables
from workflow.referee.tidy import read_metrics

start_log(snakemake.log[0])
metrics = read_metrics(snakemake.input.metrics)
params, output = snakemake.params, snakemake.output
comparisons = table3.gather_tasks(
    metrics, params.methods, params.tasks, params.patients, params.seed
)
paper = pd.read_csv(snakemake.input.paper) if params.paper else None
table = table2.summarise(params.rows, comparisons, params.patients, paper, params.seed)
trainings = [
    json.loads(Path(path).read_text(encoding="utf-8")) for path in snakemake.input.trainings
]
text = table2.formatted(table, params.tasks)
lines = table2.notes(trainings, params.paper)
write_text(output.csv, table.to_csv(index=False))
write_tables(output[1:], "Table 2", {"": text}, lines)
