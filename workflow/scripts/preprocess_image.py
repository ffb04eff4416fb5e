"""Bring one image to the working grid."""

from avsm.grid import WorkingGrid
from avsm.images import write_image
from workflow.data.preprocess import preprocess_image
from workflow.data.scan import Scan
from workflow.job import start_job

start_job(snakemake.log[0], snakemake.threads)
settings = snakemake.params.preprocessing
image = preprocess_image(
    Scan(**snakemake.params.scan),
    snakemake.input.image,
    WorkingGrid(settings["size"], settings["spacing_mm"]),
    settings["mirror_left"],
    settings["percentiles"],
)
write_image(image, snakemake.output[0])
