"""AVSM's networks, whose first momentum is then refined on the pair itself."""

import SimpleITK as sitk

from baselines.tools.avsm import prepare, register_with_networks
from workflow.contract.registration import Context, Registration

__all__ = ["prepare", "register"]


def register(fixed: sitk.Image, moving: sitk.Image, params: dict, context: Context) -> Registration:
    """Register with one step of both networks, then refine it."""
    steps, iterations = params["affine_steps"], params["iterations"]
    return register_with_networks(fixed, moving, context.prepared, steps, refine=iterations)
