"""FireANTs' greedy registration with local cross-correlation, from affine-opt's map.

Jena et al., "FireANTs: adaptive Riemannian optimization for multi-scale diffeomorphic matching",
2024. The package has a licence of its own: it is called, none of its code is here.
"""

import numpy as np
import SimpleITK as sitk
import torch
from fireants.io import BatchedImages, Image
from fireants.registration.greedy import GreedyRegistration

from avsm.device import device_name, find_device
from workflow.contract.registration import Context, Registration
from workflow.geometry import displacement_from_index_map


def register(fixed: sitk.Image, moving: sitk.Image, params: dict, context: Context) -> Registration:
    """Register from coarse to fine by Adam on a composed field."""
    torch.set_num_threads(context.threads)
    torch.manual_seed(context.seed)
    device = find_device(params["device"])
    images = [BatchedImages([Image(image, device=device)]) for image in (fixed, moving)]
    start = np.column_stack(context.start)  # mm, LPS: FireANTs' own frame
    registration = GreedyRegistration(
        params["scales"], params["iterations"], *images,
        cc_kernel_size=params["window"], optimizer_lr=params["rate"],
        smooth_grad_sigma=params["gradient_sigma"], smooth_warp_sigma=params["warp_sigma"],
        init_affine=torch.tensor(start, dtype=torch.float32, device=device)[None],
        progress_bar=False,
    )  # fmt: skip
    registration.optimize()
    with torch.no_grad():
        # (D, H, W, 3), components x, y, z in [-1, 1] between the centres of the outermost voxels.
        coordinates = registration.get_warped_coordinates(*images)[0].cpu().double().numpy()
    index = (coordinates + 1) * (np.asarray(moving.GetSize()) - 1) / 2
    displacement = displacement_from_index_map(np.moveaxis(index, -1, 0), fixed, moving)
    return Registration(displacement, device_name(device))
