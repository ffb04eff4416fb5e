"""Make Table 1 as CSV, Markdown and LaTeX."""

from pathlib import Path

import pandas as pd

from workflow.logs import start_log
from workflow.referee import render, table1

start_log(snakemake.log[0])
metrics = pd.read_csv(snakemake.input.metrics)
paper = pd.read_csv(snakemake.input.paper)
params = snakemake.params
table = table1.summarise(metrics, params.methods, params.tasks, paper)
notes = table1.notes(metrics, params.methods, snakemake.input.outcomes, params.grid)
table.to_csv(snakemake.output.csv, index=False)
Path(snakemake.output.md).write_text(render.markdown(table, notes), encoding="utf-8")
Path(snakemake.output.tex).write_text(render.latex(table, notes), encoding="utf-8")
