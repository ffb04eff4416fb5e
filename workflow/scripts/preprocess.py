"""Bring an image or a label map to the working grid."""

from avsm.grid import WorkingGrid
from avsm.images import write_image
from workflow.data.preprocess import preprocess_image, preprocess_label
from workflow.job import start_job

start_job(snakemake.log[0], snakemake.threads)
params, path = snakemake.params, snakemake.input.own
grid = WorkingGrid(params.preprocessing["size"], params.preprocessing["spacing_mm"])
if snakemake.wildcards.kind == "images":
    percentiles = params.preprocessing["percentiles"]
    image = preprocess_image(path, grid, params.mirrored, percentiles)
else:
    image = preprocess_label(path, grid, params.mirrored, params.merge)
write_image(image, snakemake.output[0])
