"""Draw one registered pair of a method for the eye."""

from workflow.job import start_job
from workflow.referee.pictures import draw_check

start_job(snakemake.log[0], snakemake.threads)
draw_check(snakemake.params.pair, snakemake.params.structures, snakemake.output[0])
