"""AVSM, whose momenta are then refined on the pair itself."""

import SimpleITK as sitk

from baselines.tools.avsm import prepare, register_with_networks
from workflow.contract.registration import Context, Registration

__all__ = ["prepare", "register"]


def register(fixed: sitk.Image, moving: sitk.Image, params: dict, context: Context) -> Registration:
    """Register with both networks, then refine."""
    return register_with_networks(
        fixed,
        moving,
        context.prepared,
        params["affine_steps"],
        params["steps"],
        params["iterations"],
    )
