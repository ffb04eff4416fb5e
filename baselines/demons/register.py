"""Fast symmetric forces Demons of SimpleITK, from NiftyReg's affine.

Vercauteren et al., "Diffeomorphic demons: efficient non-parametric image registration",
NeuroImage 2009.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import SimpleITK as sitk

from baselines.niftyreg.register import affine_start, seen_images
from workflow.contract.registration import Context, Registration
from workflow.geometry import displacement_from_affine, displacement_from_stripped


@contextmanager
def _differing_grids() -> Iterator[None]:
    """Let ITK take images whose headers differ: Demons samples each in its own physical frame."""
    settings = sitk.ProcessObject
    kept = (
        settings.GetGlobalDefaultCoordinateTolerance(),
        settings.GetGlobalDefaultDirectionTolerance(),
    )
    settings.SetGlobalDefaultCoordinateTolerance(float("inf"))
    settings.SetGlobalDefaultDirectionTolerance(float("inf"))
    try:
        yield
    finally:
        settings.SetGlobalDefaultCoordinateTolerance(kept[0])
        settings.SetGlobalDefaultDirectionTolerance(kept[1])


def register(fixed: sitk.Image, moving: sitk.Image, params: dict, context: Context) -> Registration:
    """Register by Demons, whose field starts from the affine one."""
    seen = seen_images(fixed, moving, params)
    affine = affine_start(fixed, moving, params, context)
    initial = sitk.Cast(displacement_from_affine(*affine, seen[0]), sitk.sitkVectorFloat64)

    demons = sitk.FastSymmetricForcesDemonsRegistrationFilter()
    demons.SetNumberOfIterations(params["iterations"])
    demons.SetSmoothDisplacementField(True)
    demons.SetStandardDeviations(params["sigma"])
    demons.SetNumberOfThreads(context.threads)
    with _differing_grids():
        displacement = sitk.Cast(demons.Execute(*seen, initial), sitk.sitkVectorFloat32)
    if params["unit_spacing"]:
        displacement = displacement_from_stripped(displacement, fixed, moving)
    return Registration(displacement)
