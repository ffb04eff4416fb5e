"""Bring one label map to the working grid."""

from avsm.grid import WorkingGrid
from avsm.images import write_image
from workflow.data.preprocess import preprocess_label
from workflow.data.scan import Scan
from workflow.job import start_job

start_job(snakemake.log[0], snakemake.threads)
settings = snakemake.params.preprocessing
label = preprocess_label(
    Scan(**snakemake.params.scan),
    snakemake.input.label,
    WorkingGrid(settings["size"], settings["spacing_mm"]),
    settings["mirror_left"],
    snakemake.params.merge,
)
write_image(label, snakemake.output[0])
