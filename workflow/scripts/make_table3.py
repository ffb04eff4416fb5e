"""Make Table 3 and the table of all comparisons."""

import pandas as pd

from workflow.files import write_text
from workflow.job import start_log
from workflow.referee import render, table3
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
tests = [comparison.compare().assign(task=task) for task, comparison in comparisons.items()]
write_text(output.significance, pd.concat(tests).to_csv(index=False))
whole = pd.concat([table.assign(task=task) for task, table in tables.items()])
write_text(output.csv, whole[["task", *whole.columns.drop("task")]].to_csv(index=False))
notes = table3.notes(comparisons)
for path, write, title in (
    (output.md, render.markdown, "**{}**\n\n"),
    (output.tex, render.latex, "\\textbf{{{}}}\n\n"),
):
    texts = []
    for number, (task, table) in enumerate(tables.items(), start=1):
        lines = notes if number == len(tables) else []
        texts.append(title.format(task.capitalize()) + write(table3.formatted(table), lines))
    write_text(path, "\n".join(texts))
