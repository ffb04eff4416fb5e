"""Simulate the DESS image of a scan that has a label map but no image."""

import zlib

import SimpleITK as sitk

from avsm.images import canonical, read_image, write_image
from workflow.job import start_job
from workflow.phantom.dess import simulate_dess

start_job(snakemake.log[0], snakemake.threads)
params = snakemake.params
# Checksums of the names seed each scan on its own, whatever else is in the cohort.
scan_seed, subject_seed = (
    (params.seed, zlib.crc32(f"{kind} {name}".encode()))
    for kind, name in (("scan", params.scan), ("subject", params.subject))
)
# The simulator paints by anatomical directions, and label maps may be stored as floats.
label = sitk.Cast(canonical(read_image(snakemake.input.label, notes=[])), sitk.sitkUInt8)
image = simulate_dess(label, scan_seed, subject_seed, params.contrast)
write_image(image, snakemake.output[0])
