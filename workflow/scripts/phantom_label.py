"""Make the label map of one scan of the embedded cohort."""

from avsm.images import write_image
from workflow.job import start_job
from workflow.phantom.labels import phantom_label

start_job(snakemake.log[0], snakemake.threads)
label = phantom_label(**snakemake.params.scan, size=tuple(snakemake.params.size))
write_image(label, snakemake.output[0])
