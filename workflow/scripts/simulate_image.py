"""Simulate the DESS image of a scan that has a label map but no image."""

import zlib

from workflow.data.dess import simulate_dess
from workflow.images import read_image, write_image
from workflow.logs import start_log

start_log(snakemake.log[0])
params = snakemake.params
# Checksums of the names seed each scan on its own, whatever else is in the cohort.
scan_seed, subject_seed = (
    (params.seed, zlib.crc32(name.encode())) for name in (params.scan, params.subject)
)
image = simulate_dess(read_image(snakemake.input.label), scan_seed, subject_seed)
write_image(image, snakemake.output[0])
