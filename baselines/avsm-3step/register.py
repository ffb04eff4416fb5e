"""AVSM: the affine network, then three steps of the momentum network."""

import SimpleITK as sitk

from baselines.tools.avsm import prepare, register_with_networks
from workflow.contract.registration import Context, Registration

__all__ = ["prepare", "register"]


def register(fixed: sitk.Image, moving: sitk.Image, params: dict, context: Context) -> Registration:
    """Register with both networks."""
    return register_with_networks(
        fixed, moving, context.prepared, params["affine_steps"], params["steps"]
    )
