"""Greedy, the diffeomorphic registration of ITK-SNAP's group, from affine-opt's map.

Yushkevich et al., "Fast automatic segmentation of hippocampal subfields and medial temporal lobe
subregions in 3 Tesla and 7 Tesla T2-weighted MRI", Alzheimer's & Dementia 2016.
"""

import numpy as np
import SimpleITK as sitk
from picsl_greedy import Greedy3D

from workflow.contract.registration import Context, Registration
from workflow.geometry import affine_ras_from_lps


def register(fixed: sitk.Image, moving: sitk.Image, params: dict, context: Context) -> Registration:
    """Register with normalised cross-correlation over small windows, from coarse to fine."""
    affine = context.folder / "affine.mat"  # 4x4, RAS, from fixed to moving points
    np.savetxt(affine, affine_ras_from_lps(*context.start), fmt="%.17g")
    greedy, common = Greedy3D(), f"-d 3 -V 0 -threads {context.threads}"
    greedy.execute(
        f"{common} -i fixed moving -it {affine} -o warp "
        f"-m NCC {'x'.join([str(params['radius'])] * 3)} "
        f"-n {'x'.join(map(str, params['iterations']))} "
        f"-s {params['gradient_sigma']}vox {params['warp_sigma']}vox",
        fixed=fixed, moving=moving, warp=None,
    )  # fmt: skip
    # What it writes in one go is in the order of application from the right, as in its manual.
    greedy.execute(
        f"{common} -rf fixed -rm moving warped -rc composed -r warp {affine}",
        warped=None, composed=None,
    )  # fmt: skip
    displacement = sitk.Cast(greedy["composed"], sitk.sitkVectorFloat32)
    return Registration(displacement)
