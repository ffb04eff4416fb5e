"""Make Table 3 and the table of all comparisons."""

import pandas as pd

from avsm.files import write_text
from workflow.job import start_log
from workflow.referee import table3
from workflow.referee.render import write_tables
from workflow.referee.tidy import read_metrics

start_log(snakemake.log[0])
metrics = read_metrics(snakemake.input.metrics)
params, output = snakemake.params, snakemake.output
comparisons = table3.gather_tasks(
    metrics, params.methods, params.tasks, params.patients, params.seed
)
tables = {
    task: table3.summarise(comparison, params.methods, params.patients, params.seed)
    for task, comparison in comparisons.items()
}
whole = pd.concat([table.assign(task=task) for task, table in tables.items()])
write_text(output.csv, whole[["task", *whole.columns.drop("task")]].to_csv(index=False))
text = {task.capitalize(): table3.formatted(table) for task, table in tables.items()}
write_tables([output.md, output.tex, output.html], "Table 3", text, table3.notes(comparisons))

labels = {method["id"]: method["label"] for method in params.methods}
tests = {task: comparison.compare() for task, comparison in comparisons.items()}
whole = pd.concat([table.assign(task=task) for task, table in tests.items()])
write_text(output.significance, whole.to_csv(index=False))
text = {task.capitalize(): table3.compared(table, labels) for task, table in tests.items()}
write_tables([output.comparisons], "All comparisons", text)
