"""Bring an image or a label map to the working grid; an image may be simulated first."""

from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory

import SimpleITK as sitk

from avsm.grid import WorkingGrid
from avsm.images import canonical, read_image, write_image
from workflow.data.preprocess import preprocess_image, preprocess_label
from workflow.job import start_job

start_job(snakemake.log[0], snakemake.threads)
params, path = snakemake.params, snakemake.input.own
grid = WorkingGrid(params.preprocessing["size"], params.preprocessing["spacing_mm"])
with TemporaryDirectory() as folder:
    if params.simulation:
        dess = import_module("workflow.phantom.dess")  # scans with images do not depend on it
        # The simulator paints by anatomical directions, and label maps may be stored as floats.
        label = sitk.Cast(canonical(read_image(path, notes=[])), sitk.sitkUInt8)
        path = str(Path(folder, "simulated.nii"))  # as scans' own images are: with its precision
        write_image(dess.simulate_dess(label, **params.simulation), path)
    if snakemake.wildcards.kind == "images":
        percentiles = params.preprocessing["percentiles"]
        image = preprocess_image(path, grid, params.mirrored, percentiles)
    else:
        image = preprocess_label(path, grid, params.mirrored, params.merge)
write_image(image, snakemake.output[0])
