"""SyN of ANTs with the settings of ANTsPy's `SyNCC` preset, iterations settable.

Avants et al., "Symmetric diffeomorphic image registration with cross-correlation", Medical Image
Analysis 2008. The preset's 2100x1200x1200x20 iterations are the paper's; ANTsPy offers no way to
change them, so the same antsRegistration call is made here.
"""

from pathlib import Path

import SimpleITK as sitk
from ants.internal import get_lib_fn, process_arguments

from avsm.errors import UserError
from workflow.contract.registration import Context, Registration, in_voxels


@in_voxels
def register(fixed: sitk.Image, moving: sitk.Image, params: dict, context: Context) -> Registration:
    """Register rigidly and affinely by mutual information, then by SyN with cross-correlation."""
    paths = [context.folder / name for name in ("fixed.nii", "moving.nii")]
    for image, path in zip((fixed, moving), paths, strict=True):
        sitk.WriteImage(image, str(path))
    # Inside this process, as ANTsPy does.
    arguments = process_arguments(_arguments(*paths, context.folder, params, context.seed))
    if status := get_lib_fn("antsRegistration")(arguments):
        raise UserError(f"antsRegistration exited with status {status}")

    # ANTs applies the warp first, then the affine: x_moving = A(x + w(x)).
    field = sitk.ReadImage(str(context.folder / "1Warp.nii.gz"), sitk.sitkVectorFloat64)
    affine = sitk.ReadTransform(str(context.folder / "0GenericAffine.mat"))
    # ITK applies the transform that was added last first.
    composed = sitk.CompositeTransform([affine, sitk.DisplacementFieldTransform(field)])
    displacement = sitk.TransformToDisplacementField(
        composed, sitk.sitkVectorFloat32, fixed.GetSize(), fixed.GetOrigin(), fixed.GetSpacing(),
        fixed.GetDirection(),
    )  # fmt: skip
    return Registration(displacement)


def _arguments(fixed: Path, moving: Path, folder: Path, params: dict, seed: int) -> list[str]:
    """Return antsRegistration's arguments: three stages, as in the `SyNCC` preset."""
    mattes = f"Mattes[{fixed},{moving},1,32,Regular,0.2]"
    iterations = "x".join(map(str, params["iterations"]))
    syn = f"SyN[{params['gradient_step']},{params['flow_sigma']},0]"
    return [
        "--dimensionality", "3", "--float", "1", "--random-seed", str(seed),
        "--initial-moving-transform", f"[{fixed},{moving},1]",
        "--metric", mattes, "--transform", "Rigid[1]", "--convergence", "2100x1200x1200x0",
        "--smoothing-sigmas", "3x2x1x0", "--shrink-factors", "4x4x2x1",
        "--metric", mattes, "--transform", "Affine[1]", "--convergence", "1200x1200x100",
        "--smoothing-sigmas", "2x1x0", "--shrink-factors", "4x2x1",
        "--metric", f"CC[{fixed},{moving},1,{params['radius']}]", "--transform", syn,
        "--convergence", f"[{iterations},1e-7,8]",
        "--smoothing-sigmas", "3x2x1x0", "--shrink-factors", "4x3x2x1",
        "--use-histogram-matching", "0", "--collapse-output-transforms", "1",
        "--output", f"{folder}/",
    ]  # fmt: skip
