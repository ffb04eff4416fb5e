"""Draw the ranking of the methods."""

from workflow.files import write_text
from workflow.job import start_log
from workflow.referee import table3
from workflow.referee.ranking import draw_ranking, ranking_table
from workflow.referee.tidy import read_metrics

start_log(snakemake.log[0])
metrics = read_metrics(snakemake.input.metrics)
params, output = snakemake.params, snakemake.output
ranks = {}
for task in params.tasks:
    comparison = table3.gather(metrics, params.methods, task, params.patients, params.seed)
    if comparison.dice.size:
        ranks[task] = comparison.rank()
labels = {method["id"]: method["label"] for method in params.methods}
table = ranking_table(ranks, labels)
write_text(output.csv, table.to_csv(index=False))
draw_ranking(table, snakemake.input.style, [output.png, output.pdf])
