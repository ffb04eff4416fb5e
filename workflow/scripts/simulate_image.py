"""Simulate the DESS image of a scan that has a label map but no image."""

import zlib

from workflow.data.dess import simulate_dess
from workflow.images import read_image, write_image
from workflow.logs import start_log

start_log(snakemake.log[0])
# A checksum of the name seeds each scan on its own, whatever else is in the cohort.
seed = (snakemake.params.seed, zlib.crc32(snakemake.params.scan.encode()))
write_image(simulate_dess(read_image(snakemake.input.label), seed), snakemake.output[0])
