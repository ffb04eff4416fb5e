"""Affine registration by numerical optimisation of what AVSM's affine network predicts."""

import SimpleITK as sitk

from avsm.optimise import AffineSettings, optimise_affine
from baselines.tools.avsm import from_map, prepare, tensors
from workflow.contract.registration import Context, Registration

__all__ = ["prepare", "register"]


def register(fixed: sitk.Image, moving: sitk.Image, params: dict, context: Context) -> Registration:
    """Optimise the affine parameters of the pair."""
    device = context.prepared.device
    images = tensors(fixed, moving, device)
    result = optimise_affine(*images, AffineSettings.preset(params["preset"]))
    phi = result.affine.map(images[0].shape[2:])
    return from_map(phi, fixed, moving, device)
