"""Make all tables but Table 1, the figures over all pairs, and the record of the run."""

import json
from functools import partial
from pathlib import Path

import pandas as pd
import yaml

from avsm.files import write_text
from workflow.config import ROOT
from workflow.contract.programs import find_program, program_version
from workflow.data.scans import simulated_note
from workflow.job import say, start_log
from workflow.provenance import code_version, machine, versions
from workflow.referee import boxplot, claims, curves, fairness, ranking, table2, table3
from workflow.referee.render import write_table
from workflow.referee.statistics import gather
from workflow.referee.tidy import read_json, read_metrics

start_log(snakemake.log[0])
inputs, params = snakemake.input, snakemake.params
metrics = read_metrics(*inputs.scores)
records, trainings = ([*map(read_json, paths)] for paths in (inputs.outcomes, inputs.trainings))
main, every = (
    gather(metrics, methods, params.tasks, params.patients, params.config["seed"])
    for methods in (params.main, params.shown)
)
labels = {method["id"]: method["label"] for method in params.shown}


def files(name):
    """Return the outputs of a name."""
    return [path for path in snakemake.output if Path(path).stem == name]


def make_figure(name, values, draw):
    """Write the values that a figure shows, and draw them."""
    csv, *pictures = files(name)
    write_text(csv, values.to_csv(index=False))
    draw(values, pictures)


write_text(*files("metrics"), metrics.to_csv(index=False))

if files("table2"):
    paper = pd.read_csv(table2.PUBLISHED) if params.paper else None
    table = table2.compute(params.table2, every, paper)
    notes = table2.notes([*map(read_json, inputs.trainings_of_table2)], params.paper)
    text = table2.formatted(table, params.tasks)
    write_table(files("table2"), "Table 2", table, {"": text}, notes)

table = table3.compute(main, params.main)
write_table(files("table3"), "Table 3", table, table3.formatted(table), table3.notes(main))

tests = {task: found.tests for task, found in main.items()}
table = pd.concat([found.assign(task=task) for task, found in tests.items()])
texts = {task.capitalize(): table3.formatted_tests(own, labels) for task, own in tests.items()}
write_table(files("significance"), "All comparisons", table, texts)

if files("claims"):
    said = yaml.safe_load(claims.CLAIMS.read_text(encoding="utf-8"))
    rows = {row["row"]: row["method"] for row in params.table2}
    table = claims.compute(said, every, params.shown, rows)
    text = claims.formatted(table, labels)
    write_table(files("claims"), "The paper's claims", table, {"": text}, claims.NOTES)

card = fairness.compute(params.shown, params.networks, trainings, records)
notes = fairness.notes(params.scans, params.patients) + simulated_note(params.images)
write_table(files("fairness"), "Fairness card", card, {"": card}, notes)

for number in boxplot.PLOTS:
    values = boxplot.compute(number, metrics, params.main, params.tasks)
    make_figure(f"figure{number}", values, partial(boxplot.draw, number))
for number in filter(lambda number: files(f"figure{number}"), curves.PANELS):
    values = curves.compute(number, every, params.curves[f"figure{number}"])
    make_figure(f"figure{number}", values, partial(curves.draw, number))
if files("figure9"):
    make_figure("figure9", curves.compute_weight(), curves.draw_weight)
ranks = {task: found.ranks for task, found in main.items() if found.dice.size}
make_figure("ranking", ranking.compute(ranks, tests, labels), ranking.draw)

programs = {
    name: program_version(find_program(name, params.config["program_folders"]))
    for method in params.shown
    for name in method["requires"]["programs"]
}
manifest = {
    "versions": versions() | programs,
    "machine": machine(),
    "code": code_version(ROOT),
    "files": read_json(inputs.cohort)["files"],
    "seed": params.config["seed"],
    "config": params.config,
    "methods": params.shown,
    "networks": params.networks,
    "trainings": trainings,
}
write_text(*files("manifest"), json.dumps(manifest, indent=1) + "\n")
folder = Path(*files("metrics")).parents[1]
say(f"Tables and figures over all pairs: {folder}")
