"""Make Table 1 as CSV, Markdown and LaTeX."""

import json
from pathlib import Path

import pandas as pd

from workflow.files import write_text
from workflow.job import start_log
from workflow.referee import render, table1
from workflow.referee.tidy import read_metrics

start_log(snakemake.log[0])
metrics = read_metrics(snakemake.input.metrics)
records = [json.loads(Path(p).read_text(encoding="utf-8")) for p in snakemake.input.outcomes]
params, output = snakemake.params, snakemake.output
paper = pd.read_csv(snakemake.input.paper)
table = table1.summarise(metrics, params.methods, params.tasks, records, paper)
notes = table1.notes(metrics, params.methods, table, params.grid)
write_text(output.csv, table.to_csv(index=False))
write_text(output.md, render.markdown(table, notes))
write_text(output.tex, render.latex(table, notes))
