"""List the layers of AVSM's networks (Figure 11)."""

import torch

from avsm.model import load_model
from workflow.job import start_job
from workflow.referee.architecture import compute, formatted, list_layers, notes
from workflow.referee.render import write_table

start_job(snakemake.log[0], snakemake.threads)
trained = load_model(snakemake.input.model)
model, images = trained.model, torch.zeros(2, 1, 1, *trained.shape)
table = compute(list_layers(model, lambda: model(*images, affine_steps=1, steps=1)))
lines = notes(trained.shape, model.config.affine_steps, model.config.steps)
write_table(snakemake.output, "Figure 11: networks", table, formatted(table), lines)
