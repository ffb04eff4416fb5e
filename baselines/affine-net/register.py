"""AVSM's affine network in several steps."""

import SimpleITK as sitk

from baselines.avsm.register import by_networks, prepare
from workflow.contract.registration import Context, Registration

__all__ = ["prepare", "register"]


def register(fixed: sitk.Image, moving: sitk.Image, params: dict, context: Context) -> Registration:
    """Register affinely."""
    return by_networks(fixed, moving, context.prepared, params["steps"], steps=0)
