"""Draw one registered pair of a method for the eye."""

from workflow.logs import start_log
from workflow.referee.visual_check import draw_check

start_log(snakemake.log[0])
draw_check(
    snakemake.params.pair,
    snakemake.params.label,
    snakemake.input.images,
    snakemake.input.labels,
    snakemake.input.fields,
    snakemake.params.structures,
    snakemake.output[0],
)
