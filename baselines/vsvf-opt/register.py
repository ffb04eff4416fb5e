"""vSVF registration by numerical optimisation of the momentum that AVSM's network predicts."""

import SimpleITK as sitk

from avsm.optimise import AffineSettings, optimise_affine
from avsm.optimise_vsvf import VSVFSettings, optimise_vsvf
from baselines.tools.avsm import from_map, prepare, tensors
from workflow.contract.registration import Context, Registration

__all__ = ["prepare", "register"]


def register(fixed: sitk.Image, moving: sitk.Image, params: dict, context: Context) -> Registration:
    """Optimise the affine parameters of the pair, then its momentum."""
    device = context.prepared.device
    images = tensors(fixed, moving, device)
    affine = optimise_affine(*images, AffineSettings.preset(params["affine_preset"])).affine
    result = optimise_vsvf(*images, affine, VSVFSettings.preset(params["preset"]))
    return from_map(result.map, fixed, moving, device)
