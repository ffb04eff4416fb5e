"""Registration of two images in physical space, by a trained model or by optimisation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import SimpleITK as sitk
import torch

from avsm.device import find_device
from avsm.errors import UserError
from avsm.grid import to_grid
from avsm.images import canonical, check_image
from avsm.model import TrainedModel
from avsm.optimise import Callback, optimise_affine
from avsm.optimise_vsvf import optimise_vsvf
from avsm.physical import X_AXIS, mirror_map, physical_displacement, warp_image
from avsm.refine import refine as refine_pair

MOST_VOXELS = 80 * 192 * 192  # the paper's grid
LEAST_SIDE = 16  # the coarsest level of an optimisation has a quarter of it


class Result(NamedTuple):
    """A registration in physical space.

    Attributes
    ----------
    displacement
        Vector image on the fixed image's grid, float32, mm, LPS: x_moving = x_fixed + u(x_fixed).
        ``sitk.DisplacementFieldTransform``, ANTs and Slicer apply it as is.
    warped
        The moving image on the fixed image's grid, see ``physical.warp_image``.
    """

    displacement: sitk.Image
    warped: sitk.Image | None


def register(
    fixed: sitk.Image,
    moving: sitk.Image,
    model: TrainedModel | None = None,
    affine_steps: int | None = None,
    steps: int | None = None,
    refine: int = 0,
    refine_affine: bool = False,
    normalised: bool = False,
    mirror: bool = False,
    device: str = "auto",
    size: Sequence[int] | None = None,
    callback: Callback | None = None,
    outside: float | None = None,
    warp: bool = True,
) -> Result:
    """Register two 3D images of one anatomy: by a model, or without one by optimisation.

    Parameters
    ----------
    fixed, moving
        Scalar images, any grids and headers.
    model
        The model, see ``model.load_model``. None: the affine parameters and then the momentum
        of this pair are optimised (``optimise_affine``, ``optimise_vsvf``), whatever the anatomy.
    affine_steps
        Affine steps of a model, at least 1; None takes the model's.
    steps
        vSVF steps; 0 for the affine map alone, None takes the model's. Without a model 0 or None.
    refine
        Iterations of instance optimisation on this pair, from one vSVF step; ``steps`` is not used.
    refine_affine
        Whether the affine parameters are optimised before, not only the momentum.
    normalised
        Whether intensities are in [0, 1] already; otherwise each image's .1 and 99.9 percentiles
        become 0 and 1.
    mirror
        Show both images to the networks with left and right swapped: for the other side of the
        body than the model was trained on.
    device
        See ``device.find_device``.
    size
        Voxels (x, y, z) of the grid that is registered on without a model, axes RAS+; None takes
        ``working_size`` of the fixed image.
    callback
        Called with ``optimise.Progress`` in every iteration of an optimisation.
    outside
        Of the warped image, see ``physical.warp_image``.
    warp
        Whether to warp the moving image, too; else the result's is None.

    Returns
    -------
    Result
        Displacement and warped image, on the fixed image's grid.

    Raises
    ------
    UserError
        If an image or an option does not fit.
    """
    for name, image in (("fixed image", fixed), ("moving image", moving)):
        check_image(image, name)
    place = find_device(device)
    check_options(model, affine_steps, steps, refine, refine_affine, size)
    if model is not None:
        shape = model.shape
    else:
        shape = tuple(int(n) for n in (working_size(fixed) if size is None else size))[::-1]
    arrays = [
        to_grid(image, shape, name, normalised)
        for name, image in (("fixed image", fixed), ("moving image", moving))
    ]
    if mirror:
        arrays = [np.ascontiguousarray(np.flip(array, X_AXIS)) for array in arrays]
    tensors = [torch.from_numpy(array)[None, None].to(place) for array in arrays]
    if model is None:
        phi = optimise_map(*tensors, steps == 0, callback)
    else:
        phi = find_map(model, *tensors, affine_steps, steps, refine, refine_affine, callback)
    if mirror:
        phi = mirror_map(phi)
    displacement = physical_displacement(phi.cpu(), fixed, moving)
    warped = warp_image(moving, displacement, outside=outside) if warp else None
    return Result(displacement, warped)


def working_size(image: sitk.Image, most: int = MOST_VOXELS) -> tuple[int, int, int]:
    """Give the size (x, y, z) of the grid on which an image is registered without a model.

    Its voxels, axes RAS+, are the image's own where ``most`` allows it, else larger and as close to
    cubes as the image's own voxels let them be. No side has less than ``LEAST_SIDE``.
    """
    image = canonical(image)
    voxels = np.asarray(image.GetSize())
    extent = voxels * image.GetSpacing()

    def size(side: float) -> np.ndarray:
        most_of_side = np.maximum(voxels, LEAST_SIDE)
        return np.clip(np.round(extent / side), LEAST_SIDE, most_of_side).astype(int)

    side = min(image.GetSpacing())
    while size(side).prod() > most and size(side).max() > LEAST_SIDE:
        side *= 1.02
    x, y, z = size(side).tolist()
    return x, y, z


def check_options(
    model: TrainedModel | None,
    affine_steps: int | None = None,
    steps: int | None = None,
    refine: int = 0,
    refine_affine: bool = False,
    size: Sequence[int] | None = None,
) -> None:
    """Raise UserError if options of ``register`` do not fit one another."""
    for name, value, least in (
        ("affine steps", affine_steps, 1),
        ("steps", steps, 0),
        ("refine", refine, 0),
    ):
        if value is not None and value < least:
            raise UserError(f"{name}: expected at least {least}, found {value}")
    if refine_affine and not refine:
        raise UserError("refine_affine: expected iterations of refine, found 0")
    if refine and steps is not None:
        raise UserError("steps: refine starts from one vSVF step; give one of the two")
    if model is None and (affine_steps is not None or steps not in (None, 0) or refine):
        raise UserError(
            "without a model the pair is optimised: expected no affine steps, no vSVF steps or 0, "
            f"and no refinement, found {affine_steps}, {steps} and {refine}"
        )
    if size is not None and model is not None:
        raise UserError(f"size: a model has a grid of its own, found {tuple(size)}")
    if size is not None and (len(size) != 3 or min(size) < LEAST_SIDE):
        raise UserError(f"size: expected three sides of {LEAST_SIDE} or more, found {tuple(size)}")


def optimise_map(
    fixed: torch.Tensor,
    moving: torch.Tensor,
    affine_alone: bool = False,
    callback: Callback | None = None,
) -> torch.Tensor:
    """Optimise the affine map of a pair ``(1, 1, D, H, W)``, then the momentum of one vSVF step."""
    affine = optimise_affine(fixed, moving, callback=callback).affine
    if affine_alone:
        return affine.map(fixed.shape[2:])
    return optimise_vsvf(fixed, moving, affine, callback=callback).map


def find_map(
    model: TrainedModel,
    fixed: torch.Tensor,
    moving: torch.Tensor,
    affine_steps: int | None = None,
    steps: int | None = None,
    refine: int = 0,
    refine_affine: bool = False,
    callback: Callback | None = None,
) -> torch.Tensor:
    """Register images ``(B, 1, D, H, W)`` on the model's grid: the map ``(B, 3, D, H, W)``."""
    if steps is None and "momentum" not in model.trained:
        steps = 0  # an untrained momentum network leaves the affine map as it is
    networks = model.model.to(fixed.device, memory_format=torch.channels_last_3d)
    if refine:
        return refine_pair(
            networks, fixed, moving, refine, affine_steps, refine_affine, callback
        ).map
    with torch.inference_mode():
        return networks(fixed, moving, affine_steps, steps).map
