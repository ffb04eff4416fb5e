"""SyN of DIPY with local cross-correlation, from affine-opt's map.

Garyfallidis et al., "DIPY, a library for the analysis of diffusion MRI data", Frontiers in
Neuroinformatics 2014; Avants et al., Medical Image Analysis 2008.
"""

import numpy as np
import SimpleITK as sitk
from dipy.align.imwarp import SymmetricDiffeomorphicRegistration
from dipy.align.metrics import CCMetric

from workflow.contract.registration import Context, Registration
from workflow.geometry import (
    displacement_after_affine,
    displacement_from_index_map,
    index_grid,
    warp_affinely,
)


def register(fixed: sitk.Image, moving: sitk.Image, params: dict, context: Context) -> Registration:
    """Register the affinely warped moving image, in voxels."""
    start = warp_affinely(moving, *context.start, fixed)
    static, floating = (
        sitk.GetArrayFromImage(image).astype(np.float32).transpose(2, 1, 0)
        for image in (fixed, start)
    )
    metric = CCMetric(3, sigma_diff=params["sigma"], radius=params["radius"])
    # DIPY refuses levels on which a window does not fit: those of small images are left out.
    window, side = 2 * params["radius"] + 1, min(fixed.GetSize())
    fitting = sum(side // 2**level > window for level in range(len(params["iterations"])))
    iterations = params["iterations"][-max(fitting, 1) :]
    syn = SymmetricDiffeomorphicRegistration(metric, level_iters=iterations)
    mapping = syn.optimize(static, floating)
    index = index_grid(fixed)
    moved = mapping.transform_points(np.ascontiguousarray(index.reshape(3, -1).T, np.float64))
    displacement = displacement_after_affine(
        displacement_from_index_map(moved.T.reshape(index.shape), fixed, start), *context.start
    )
    return Registration(displacement)
