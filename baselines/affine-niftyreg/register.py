"""Affine registration by NiftyReg's block matching (reg_aladin).

Modat et al., "Global image registration using a symmetric block-matching approach", J. Medical
Imaging 2014.
"""

import numpy as np
import SimpleITK as sitk

from baselines.niftyreg.register import AFFINE, FIXED, MOVING, write_images
from workflow.contract.registration import Context, Registration, in_voxels
from workflow.geometry import affine_lps_from_ras, displacement_from_affine


@in_voxels
def register(fixed: sitk.Image, moving: sitk.Image, params: dict, context: Context) -> Registration:
    """Register with reg_aladin."""
    write_images(fixed, moving, context.folder)
    context.run(
        "reg_aladin", "-ref", FIXED, "-flo", MOVING, "-aff", AFFINE,
        "-ln", params["levels"], "-omp", context.threads,
    )  # fmt: skip
    affine = affine_lps_from_ras(np.loadtxt(context.folder / AFFINE))
    return Registration(displacement_from_affine(*affine, fixed), affine=affine)
