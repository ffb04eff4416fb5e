"""NiftyReg's B-spline registration (reg_f3d), from its affine map.

Modat et al., "Fast free-form deformation using graphics processing units", Computer Methods and
Programs in Biomedicine 2010.
"""

from pathlib import Path

import nibabel
import numpy as np
import SimpleITK as sitk

from workflow.contract.registration import Context, Registration, in_voxels
from workflow.geometry import affine_ras_from_lps, vector_image, vectors_lps_from_ras

FIXED, MOVING, AFFINE = "fixed.nii", "moving.nii", "affine.txt"


@in_voxels
def register(fixed: sitk.Image, moving: sitk.Image, params: dict, context: Context) -> Registration:
    """Register with reg_f3d by LNCC, or by NMI without a width of its window."""
    write_images(fixed, moving, context.folder)
    np.savetxt(context.folder / AFFINE, affine_ras_from_lps(*context.start), fmt="%.17g")
    # A negative length is one in voxels, to reg_f3d's -sx and --lncc alike.
    similarity = ["--lncc", -params["lncc_sigma"]] if params["lncc_sigma"] else []
    context.run(
        "reg_f3d", "-ref", FIXED, "-flo", MOVING, "-aff", AFFINE, "-cpp", "grid.nii",
        "-sx", -params["spacing_voxels"], "-ln", params["levels"], "-maxit", params["iterations"],
        "-jl", params["jacobian_weight"], "-pad", 0, *similarity, "-omp", context.threads,
    )  # fmt: skip
    # The control points hold the affine already, so this displacement is the composed one.
    context.run("reg_transform", "-ref", FIXED, "-disp", "grid.nii", "displacement.nii")
    # (x, y, z, 1, 3), RAS. nibabel gives the stored components; ITK's reader would interpret the
    # vector intent.
    stored = nibabel.load(context.folder / "displacement.nii").dataobj
    vectors = np.asarray(stored, dtype=np.float32)[:, :, :, 0, :].transpose(3, 2, 1, 0)
    return Registration(vector_image(vectors_lps_from_ras(vectors), fixed))


def write_images(fixed: sitk.Image, moving: sitk.Image, folder: Path) -> None:
    """Write both images for NiftyReg's programs."""
    sitk.WriteImage(fixed, str(folder / FIXED))
    sitk.WriteImage(moving, str(folder / MOVING))
