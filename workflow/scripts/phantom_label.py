"""Make the label map of one scan of the embedded cohort."""

from avsm.images import write_image
from workflow.data.phantom import phantom_label
from workflow.data.scan import PHANTOM_VISITS, Scan
from workflow.job import start_job

start_job(snakemake.log[0], snakemake.threads)
scan = Scan(**snakemake.params.scan)
label = phantom_label(
    subject=int(scan.subject[1:]),
    visit=PHANTOM_VISITS.index(scan.visit),
    side=scan.side,
    size=tuple(snakemake.params.phantom["size"]),
    seed=snakemake.params.seed,
)
write_image(label, snakemake.output[0])
