"""A method to copy: registers nothing, but honours the contract of docs/contract.md."""

import SimpleITK as sitk

from workflow.contract.registration import Context, Registration
from workflow.geometry import displacement_from_index_map, index_grid, vector_image, warp


def register(fixed: sitk.Image, moving: sitk.Image, params: dict, context: Context) -> Registration:
    """Register one pair; replace the body.

    Parameters
    ----------
    fixed, moving : float32 images in [0, 1] on the working grid, true headers (mm, LPS).
    params : the parameters of method.yaml with the configuration's changes.
    context : threads and seed to use, a scratch folder of this pair's own, and `run` for
        external programs.

    Returns
    -------
    Registration
        The displacement u on the fixed grid, in mm and LPS, with x_moving = x_fixed + u(x_fixed),
        and a function that gives the moving image as this method itself warps it: for the contract
        test alone, and off the clock.

    Raises
    ------
    Exception
        Any exception makes the pair a failed one; its message is shown under the table.
    """
    if params["unit_spacing"]:
        displacement = displacement_from_index_map(index_grid(fixed), fixed, moving)
    else:
        displacement = vector_image(0 * index_grid(fixed), fixed)
    return Registration(displacement, lambda: warp(moving, displacement))
