"""Judge the paper's claims by this run."""

from pathlib import Path

import yaml

from avsm.files import write_text
from workflow.job import start_log
from workflow.referee import claims, table3
from workflow.referee.render import write_tables
from workflow.referee.tidy import read_metrics

start_log(snakemake.log[0])
metrics = read_metrics(snakemake.input.metrics)
params, output = snakemake.params, snakemake.output
said = yaml.safe_load(Path(snakemake.input.claims).read_text(encoding="utf-8"))
comparisons = table3.gather_tasks(
    metrics, params.methods, params.tasks, params.patients, params.seed
)
table = claims.judge(said, comparisons, params.methods, params.patients, params.seed, params.rows)
labels = {method["id"]: method["label"] for method in params.methods}
notes = [
    "Supported or contradicted: the 95 % interval by patients lies where the claim has it, or "
    "where it cannot be. Much and little: more than 2 Dice points, and less; saturate: within 1. "
    "Not tested: the run lacks a method.",
    "Best: against the best of the paper's other methods; as it is chosen on these pairs, the "
    "interval is one that holds for all of them (Bonferroni). Dice of failed pairs: as before "
    "registration.",
]
write_text(output.csv, table.to_csv(index=False))
text = claims.formatted(table, labels)
write_tables(output[1:], "The paper's claims", {"": text}, notes)
