"""Draw Figure 5 (Dice) or Figure 7 (symmetry)."""

import pandas as pd

from workflow.logs import start_log
from workflow.referee.boxplot import draw_boxplot, values_of

start_log(snakemake.log[0])
metrics = pd.read_csv(snakemake.input.metrics)
number = snakemake.wildcards.number
values = values_of(number, metrics, snakemake.params.methods, snakemake.params.tasks)
values.to_csv(snakemake.output.csv, index=False)
draw_boxplot(number, values, snakemake.input.style, [snakemake.output.png, snakemake.output.pdf])
