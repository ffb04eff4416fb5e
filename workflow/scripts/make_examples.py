"""Draw Figure 4, 6, 12, 13 or 14: examples of registrations."""

from avsm.files import write_text
from workflow.job import start_job
from workflow.referee.pictures import draw_examples, example_scores
from workflow.referee.tidy import read_metrics

start_job(snakemake.log[0], snakemake.threads)
params, (csv, *pictures) = snakemake.params, snakemake.output
scores = example_scores(params.columns, read_metrics(*dict.fromkeys(snakemake.input.scores)))
write_text(csv, scores.to_csv(index=False))
draw_examples(params.columns, params.rows, params.structures, pictures)
