"""Affine registration by NiftyReg's block matching (reg_aladin).

Modat et al., "Global image registration using a symmetric block-matching approach", J. Medical
Imaging 2014.
"""

import numpy as np
import SimpleITK as sitk

from baselines.niftyreg.register import AFFINE, FIXED, MOVING, write_images
from workflow.contract.registration import Context, Registration
from workflow.geometry import (
    affine_from_stripped,
    affine_lps_from_ras,
    displacement_from_affine,
    displacement_from_stripped,
)


def register(fixed: sitk.Image, moving: sitk.Image, params: dict, context: Context) -> Registration:
    """Register with reg_aladin."""
    seen = write_images(fixed, moving, params, context.folder)
    context.run(
        "reg_aladin", "-ref", FIXED, "-flo", MOVING, "-aff", AFFINE,
        "-ln", params["levels"], "-omp", context.threads,
    )  # fmt: skip
    affine = affine_lps_from_ras(np.loadtxt(context.folder / AFFINE))
    displacement = displacement_from_affine(*affine, seen[0])
    if params["unit_spacing"]:
        displacement = displacement_from_stripped(displacement, fixed, moving)
        affine = affine_from_stripped(*affine, fixed, moving)
    return Registration(displacement, affine=affine)
