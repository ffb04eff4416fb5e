"""Draw Figure 5 (Dice) or Figure 7 (symmetry)."""

from avsm.files import write_text
from workflow.job import start_log
from workflow.referee.boxplot import draw_boxplot, values_of
from workflow.referee.tidy import read_metrics

start_log(snakemake.log[0])
metrics = read_metrics(snakemake.input.metrics)
number = snakemake.wildcards.number
values = values_of(number, metrics, snakemake.params.methods, snakemake.params.tasks)
write_text(snakemake.output.csv, values.to_csv(index=False))
draw_boxplot(number, values, snakemake.input.style, [snakemake.output.png, snakemake.output.pdf])
