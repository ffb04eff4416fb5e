"""List the layers of AVSM's networks (Figure 11)."""

import torch

from avsm.files import write_text
from avsm.model import load_model
from workflow.job import start_job
from workflow.referee.architecture import formatted, layer_table, list_layers, notes
from workflow.referee.render import write_tables

start_job(snakemake.log[0], snakemake.threads)
output, trained = snakemake.output, load_model(snakemake.input.model)
model, images = trained.model, torch.zeros(2, 1, 1, *trained.shape)
layers = list_layers(model, lambda: model(*images, affine_steps=1, steps=1))
table = layer_table(layers, {"affine_net": "Affine network", "momentum_net": "Momentum network"})
lines = notes(trained.shape, model.config.affine_steps, model.config.steps)
write_text(output.csv, table.to_csv(index=False))
write_tables(output[1:], "Figure 11: networks", formatted(table), lines)
