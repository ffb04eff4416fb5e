"""Fast symmetric forces Demons of SimpleITK, from NiftyReg's affine.

Vercauteren et al., "Diffeomorphic demons: efficient non-parametric image registration",
NeuroImage 2009.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import SimpleITK as sitk

from workflow.contract.registration import Context, Registration, in_voxels
from workflow.geometry import displacement_from_affine


@contextmanager
def _differing_grids() -> Iterator[None]:
    """Let ITK take images whose headers differ: Demons samples each in its own physical frame."""
    settings = sitk.ProcessObject
    coordinate = settings.GetGlobalDefaultCoordinateTolerance()
    direction = settings.GetGlobalDefaultDirectionTolerance()
    settings.SetGlobalDefaultCoordinateTolerance(float("inf"))
    settings.SetGlobalDefaultDirectionTolerance(float("inf"))
    try:
        yield
    finally:
        settings.SetGlobalDefaultCoordinateTolerance(coordinate)
        settings.SetGlobalDefaultDirectionTolerance(direction)


@in_voxels
def register(fixed: sitk.Image, moving: sitk.Image, params: dict, context: Context) -> Registration:
    """Register by Demons, whose field starts from the affine one."""
    initial = sitk.Cast(displacement_from_affine(*context.start, fixed), sitk.sitkVectorFloat64)
    demons = sitk.FastSymmetricForcesDemonsRegistrationFilter()
    demons.SetNumberOfIterations(params["iterations"])
    demons.SetSmoothDisplacementField(True)
    demons.SetStandardDeviations(params["sigma"])
    demons.SetNumberOfThreads(context.threads)
    with _differing_grids():
        displacement = demons.Execute(fixed, moving, initial)
    return Registration(sitk.Cast(displacement, sitk.sitkVectorFloat32))
