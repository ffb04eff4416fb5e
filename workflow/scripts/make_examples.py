"""Draw Figure 4, 6, 12, 13 or 14: examples of registrations."""

from avsm.files import write_text
from workflow.job import start_job
from workflow.referee.examples import draw_examples, example_scores
from workflow.referee.tidy import read_metrics

start_job(snakemake.log[0], snakemake.threads)
params, output = snakemake.params, snakemake.output
scores = {path: read_metrics(path) for path in snakemake.input.scores}
write_text(output.csv, example_scores(params.columns, scores).to_csv(index=False))
draw_examples(
    params.columns, params.rows, params.structures, snakemake.input.style, [output.png, output.pdf]
)
