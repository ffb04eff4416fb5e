"""ConvexAdam with MIND features, from affine-opt's map.

Siebert et al., "ConvexAdam: self-configuring dual-optimisation-based 3D multitask medical image
registration", IEEE Transactions on Medical Imaging 2024.
"""

import numpy as np
import SimpleITK as sitk
import torch
from convexAdam.convex_adam_MIND import convex_adam_pt

from avsm.device import device_name, find_device
from workflow.contract.registration import Context, Registration
from workflow.geometry import (
    displacement_after_affine,
    displacement_from_index_map,
    index_grid,
    warp_affinely,
)


def register(fixed: sitk.Image, moving: sitk.Image, params: dict, context: Context) -> Registration:
    """Register the affinely warped moving image, in voxels."""
    torch.set_num_threads(context.threads)
    torch.manual_seed(context.seed)
    device = find_device(params["device"])
    start = warp_affinely(moving, *context.start, fixed)
    arrays = (sitk.GetArrayFromImage(image).astype(np.float32) for image in (fixed, start))
    # (z, y, x, 3) in voxels, components z, y, x: the moving image is read at x + u(x).
    field = convex_adam_pt(
        *arrays, lambda_weight=params["smoothness"], grid_sp=params["grid"],
        disp_hw=params["reach"], selected_niter=params["iterations"],
        dtype=torch.float32, device=device,
    )  # fmt: skip
    vectors = np.moveaxis(np.asarray(field, np.float32), -1, 0)[::-1]
    displacement = displacement_from_index_map(vectors + index_grid(fixed), fixed, start)
    composed = displacement_after_affine(displacement, *context.start)
    return Registration(composed, device_name(device))
