"""Make the fairness card."""

import json
from pathlib import Path

from avsm.files import write_text
from workflow.data.scans import simulated_note
from workflow.job import start_log
from workflow.referee.fairness import fairness_card, split_notes
from workflow.referee.render import write_tables

start_log(snakemake.log[0])
params, output = snakemake.params, snakemake.output
records, trainings = (
    [json.loads(Path(path).read_text(encoding="utf-8")) for path in paths]
    for paths in (snakemake.input.outcomes, snakemake.input.trainings)
)
card = fairness_card(params.methods, params.networks, trainings, records)
write_text(output.csv, card.to_csv(index=False))
notes = split_notes(params.scans, params.tested) + simulated_note(params.images)
write_tables(output[1:], "Fairness card", {"": card}, notes)
