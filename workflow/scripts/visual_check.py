"""Draw one registered pair of a method for the eye."""

from workflow.job import start_job
from workflow.referee.visual_check import draw_check

start_job(snakemake.log[0], snakemake.threads)
draw_check(
    snakemake.params.pair,
    snakemake.wildcards.method,
    snakemake.input.images,
    snakemake.input.labels,
    snakemake.input.fields,
    snakemake.params.structures,
    snakemake.input.style,
    snakemake.output[0],
)
