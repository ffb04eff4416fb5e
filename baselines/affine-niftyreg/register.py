"""Affine registration by NiftyReg's block matching."""

from baselines.tools.niftyreg import register_affine as register

__all__ = ["register"]
