"""Draw the ranking of the methods."""

from avsm.files import write_text
from workflow.job import start_log
from workflow.referee import table3
from workflow.referee.ranking import draw_ranking, ranking_table
from workflow.referee.tidy import read_metrics

start_log(snakemake.log[0])
metrics = read_metrics(snakemake.input.metrics)
params, output = snakemake.params, snakemake.output
gathered = table3.gather_tasks(metrics, params.methods, params.tasks, params.patients, params.seed)
usable = {task: found for task, found in gathered.items() if found.dice.size}
ranks = {task: found.rank() for task, found in usable.items()}
comparisons = {task: found.compare() for task, found in usable.items()}
labels = {method["id"]: method["label"] for method in params.methods}
table = ranking_table(ranks, comparisons, labels)
write_text(output.csv, table.to_csv(index=False))
draw_ranking(table, snakemake.input.style, [output.png, output.pdf])
