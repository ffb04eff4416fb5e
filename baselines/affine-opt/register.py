"""Affine registration by numerical optimisation of what AVSM's affine network predicts."""

from dataclasses import replace

import SimpleITK as sitk

from avsm.optimise import AffineSettings, optimise_affine
from avsm.physical import physical_affine
from baselines.avsm.register import from_map, prepare, tensors
from workflow.contract.registration import Context, Registration

__all__ = ["prepare", "register"]


def register(fixed: sitk.Image, moving: sitk.Image, params: dict, context: Context) -> Registration:
    """Optimise the affine parameters of the pair."""
    device = context.prepared.device
    images = tensors(fixed, moving, device)
    shape = images[0].shape[2:]
    affine = optimise_affine(*images, AffineSettings.preset(params["preset"]))
    result = from_map(affine.map(shape), fixed, moving, device)
    return replace(result, affine=physical_affine(affine, fixed, moving, shape))
