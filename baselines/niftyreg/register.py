"""NiftyReg's B-spline registration (reg_f3d), from its affine map.

Modat et al., "Fast free-form deformation using graphics processing units", Computer Methods and
Programs in Biomedicine 2010.
"""

from pathlib import Path

import nibabel
import numpy as np
import SimpleITK as sitk

from workflow.contract.registration import Affine, Context, Registration
from workflow.geometry import (
    affine_ras_from_lps,
    affine_to_stripped,
    displacement_from_stripped,
    strip_header,
    vector_image,
    vectors_lps_from_ras,
)

FIXED, MOVING, AFFINE = "fixed.nii", "moving.nii", "affine.txt"


def register(fixed: sitk.Image, moving: sitk.Image, params: dict, context: Context) -> Registration:
    """Register with reg_f3d by LNCC, or by NMI without a width of its window."""
    seen = write_images(fixed, moving, params, context.folder)
    affine = affine_ras_from_lps(*affine_start(fixed, moving, params, context))
    np.savetxt(context.folder / AFFINE, affine, fmt="%.17g")
    # A negative length is one in voxels, to reg_f3d's -sx and --lncc alike.
    similarity = ["--lncc", -params["lncc_sigma"]] if params["lncc_sigma"] else []
    context.run(
        "reg_f3d", "-ref", FIXED, "-flo", MOVING, "-aff", AFFINE, "-cpp", "grid.nii",
        "-sx", -params["spacing_voxels"], "-ln", params["levels"], "-maxit", params["iterations"],
        "-jl", params["jacobian_weight"], "-pad", 0, *similarity, "-omp", context.threads,
    )  # fmt: skip
    # The control points hold the affine already, so this displacement is the composed one.
    context.run("reg_transform", "-ref", FIXED, "-disp", "grid.nii", "displacement.nii")
    displacement = _read_displacement(context.folder / "displacement.nii", seen[0])
    if params["unit_spacing"]:
        displacement = displacement_from_stripped(displacement, fixed, moving)
    return Registration(displacement)


def seen_images(
    fixed: sitk.Image, moving: sitk.Image, params: dict
) -> tuple[sitk.Image, sitk.Image]:
    """Return the images as the tool sees them: with spacing 1 and no header, if so asked for."""
    if params["unit_spacing"]:
        return strip_header(fixed), strip_header(moving)
    return fixed, moving


def write_images(
    fixed: sitk.Image, moving: sitk.Image, params: dict, folder: Path
) -> tuple[sitk.Image, sitk.Image]:
    """Write the images as the tool sees them, and return these."""
    seen = seen_images(fixed, moving, params)
    for image, name in zip(seen, (FIXED, MOVING), strict=True):
        sitk.WriteImage(image, str(folder / name))
    return seen


def affine_start(fixed: sitk.Image, moving: sitk.Image, params: dict, context: Context) -> Affine:
    """Return the affine map that is started from, between the images as seen (mm, LPS)."""
    if params["unit_spacing"]:
        return affine_to_stripped(*context.start, fixed, moving)
    return context.start


def _read_displacement(path: Path, grid: sitk.Image) -> sitk.Image:
    """Read NiftyReg's displacement ``(x, y, z, 1, 3)``, RAS, as a field in LPS on `grid`."""
    # nibabel gives the stored components; ITK's reader would interpret the vector intent.
    stored = np.asarray(nibabel.load(path).dataobj, dtype=np.float32)[:, :, :, 0, :]
    return vector_image(vectors_lps_from_ras(np.transpose(stored, (3, 2, 1, 0))), grid)
