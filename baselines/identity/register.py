"""No registration: how far apart the images are to begin with."""

import SimpleITK as sitk

from workflow.contract.registration import Context, Registration
from workflow.geometry import displacement_from_index_map, index_grid, vector_image


def register(fixed: sitk.Image, moving: sitk.Image, params: dict, context: Context) -> Registration:
    """Return the identity: of the voxel grids, or of physical space."""
    if params["unit_spacing"]:
        displacement = displacement_from_index_map(index_grid(fixed), fixed, moving)
    else:
        displacement = vector_image(0 * index_grid(fixed), fixed)
    return Registration(displacement)
