"""AVSM: joint affine and non-parametric registration of 3D images with networks.

The library implements Shen, Han, Xu and Niethammer, "Networks for Joint Affine and Non-parametric
Image Registration", CVPR 2019, whose equation numbers the code has, and knows nothing of
benchmarks. ``avsm.register`` and the functions of ``AT_HAND`` register two images.

Images are ``(B, 1, D, H, W)`` with intensities in [0, 1]. Points have normalised coordinates in
[-1, 1] along each array axis (z, y, x), -1 and 1 being the centres of the outermost voxels (corner
aligned). A map ``(B, 3, D, H, W)`` holds, for every voxel of the fixed image, where to read in the
moving image (pull-back, the paper's Phi^-1). Velocities and momenta live in the same coordinates: a
length of 2 is the side of the unit cube in which the paper states widths and integrals.
"""

from importlib import import_module
from typing import Any

# Found when first used: `import avsm` alone loads neither PyTorch nor SimpleITK.
AT_HAND = {
    "register": "registration",
    "load_model": "model",
    "read_image": "images",
    "read_field": "images",
    "write_image": "images",
    "warp_image": "fields",
    "move_points": "fields",
}


def __getattr__(name: str) -> Any:
    if name in AT_HAND:
        return getattr(import_module(f"avsm.{AT_HAND[name]}"), name)
    raise AttributeError(f"module 'avsm' has no attribute '{name}'")
