"""Draw Figure 4, 6, 12, 13 or 14: examples of registrations."""

from workflow.job import start_job
from workflow.referee.examples import draw_examples

start_job(snakemake.log[0], snakemake.threads)
params, output = snakemake.params, snakemake.output
draw_examples(
    params.columns, params.rows, params.structures, snakemake.input.style, [output.png, output.pdf]
)
