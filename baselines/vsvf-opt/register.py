"""vSVF registration by numerical optimisation of the momentum that AVSM's network predicts."""

import SimpleITK as sitk

from avsm.optimise import VSVFSettings, optimise_vsvf
from avsm.physical import normalised_affine
from baselines.avsm.register import from_map, prepare, tensors
from workflow.contract.registration import Context, Registration

__all__ = ["prepare", "register"]


def register(fixed: sitk.Image, moving: sitk.Image, params: dict, context: Context) -> Registration:
    """Optimise the momentum of the pair, from affine-opt's map."""
    device = context.prepared.device
    images = tensors(fixed, moving, device)
    affine = normalised_affine(*context.start, fixed, moving, images[0].shape[2:])
    result = optimise_vsvf(*images, affine, VSVFSettings.preset(params["preset"]))
    return from_map(result.map, fixed, moving, device)
