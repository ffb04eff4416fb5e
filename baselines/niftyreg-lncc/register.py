"""B-spline registration by NiftyReg with LNCC, after its affine."""

from baselines.tools.niftyreg import register_bspline as register

__all__ = ["register"]
