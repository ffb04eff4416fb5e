"""Draw Figure 8 (Dice and folds over vSVF steps) or 10 (Dice over affine steps)."""

from avsm.files import write_text
from workflow.job import start_log
from workflow.referee.curves import curve_values, draw_curves
from workflow.referee.tidy import read_metrics

start_log(snakemake.log[0])
metrics = read_metrics(snakemake.input.metrics)
number, params, output = snakemake.wildcards.number, snakemake.params, snakemake.output
values = curve_values(number, metrics, params.steps, params.tasks, params.patients, params.seed)
write_text(output.csv, values.to_csv(index=False))
draw_curves(number, values, snakemake.input.style, [output.png, output.pdf])
