"""Registration of two images in physical space, by a trained model or by optimisation."""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor

from avsm.device import find_device
from avsm.errors import UserError
from avsm.fields import warp_image
from avsm.images import canonical, check_image
from avsm.maps import downsample
from avsm.maps import warp as warp_tensor
from avsm.model import AVSM, TrainedModel
from avsm.optimise import (
    AffineSettings,
    OptimisedVSVF,
    VSVFSettings,
    full_pair,
    optimise_affine,
    optimise_vsvf,
)
from avsm.physical import X_AXIS, mirror_map, pair_on_grid, physical_displacement
from avsm.vsvf import MultiGaussian

MOST_VOXELS = 80 * 192 * 192  # the paper's grid
LEAST_SIDE = 16  # the coarsest level of an optimisation has a quarter of it
FIRST_STEP = 0.02  # of L-BFGS in a refinement: the start is near already
REFINED_AFFINE = AffineSettings(scales=(0.5, 1.0), iterations=(15, 15))


class Result(NamedTuple):
    """A registration in physical space.

    ``displacement`` is a vector image on the fixed image's grid, float32, mm, LPS: x_moving =
    x_fixed + u(x_fixed), as ``sitk.DisplacementFieldTransform``, ANTs and Slicer apply it.
    ``warped`` is the moving image on that grid, see ``fields.warp_image``.
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
    outside: float | None = None,
    warp: bool = True,
) -> Result:
    """Register two scalar 3D images of one anatomy, on any grids: by a model, or by optimisation.

    Parameters
    ----------
    model
        See ``model.load_model``. None: the affine parameters and then the momentum of this very
        pair are optimised (``optimise_affine``, ``optimise_vsvf``), whatever the anatomy.
    affine_steps, steps
        Affine steps (1 or more) and vSVF steps (0: the affine map alone); None takes the model's.
    refine, refine_affine
        Iterations that optimise one vSVF step of the model on this pair, and whether the affine
        parameters are optimised before.
    normalised
        Whether intensities are in [0, 1]; else the .1 and 99.9 percentiles become 0 and 1.
    mirror
        Swap left and right of both images: for the other side of the body than in training.
    size
        Voxels (x, y, z) of the grid without a model, axes RAS+; None takes ``working_size``.
    outside, warp
        The value outside of the warped image (``fields.warp_image``), and whether to make it.

    A UserError says which image or option does not fit.
    """
    check_image(fixed, "fixed image")
    check_image(moving, "moving image")
    place = find_device(device)
    check_options(model, affine_steps, steps, refine, refine_affine, size)
    if model is not None:
        shape = model.shape
    else:
        shape = tuple(int(n) for n in (working_size(fixed) if size is None else size))[::-1]
    tensors = pair_on_grid(fixed, moving, shape, place, normalised)
    if mirror:
        tensors = [tensor.flip(X_AXIS - 3) for tensor in tensors]
    if model is None:
        affine = optimise_affine(*tensors)
        phi = affine.map(shape) if steps == 0 else optimise_vsvf(*tensors, affine).map
    else:
        networks = model.model.to(place, memory_format=torch.channels_last_3d)
        if refine:
            phi = refine_pair(networks, *tensors, refine, affine_steps, refine_affine).map
        else:
            if steps is None and "momentum" not in model.trained:
                steps = 0  # an untrained momentum network leaves the affine map as it is
            with torch.inference_mode():
                phi = networks(*tensors, affine_steps, steps).map
    if mirror:
        phi = mirror_map(phi)
    displacement = physical_displacement(phi.cpu(), fixed, moving)
    warped = warp_image(moving, displacement, outside=outside) if warp else None
    return Result(displacement, warped)


@torch.inference_mode(False)
def refine_pair(
    model: AVSM,
    fixed: Tensor,
    moving: Tensor,
    iterations: int,
    affine_steps: int | None = None,
    affine: bool = False,
) -> OptimisedVSVF:
    """Register one pair ``(1, 1, D, H, W)`` in [0, 1] by the networks, then by L-BFGS from there.

    It starts at one step of the momentum network, which is as good a start as several, with a finer
    smoothing operator unless the network's is finer still. After 0 ``iterations`` that is the step
    as predicted, at the resolution of the model's first. ``affine`` optimises the affine parameters
    first.
    """
    config = model.config
    fixed, moving = full_pair(fixed, moving)
    with torch.no_grad():
        steps = config.affine_steps if affine_steps is None else affine_steps
        start = model.affine_net(fixed, moving, steps)[-1]
    if affine:
        start = optimise_affine(fixed, moving, REFINED_AFFINE, start)
    solver = {"solver": config.solver, "solver_steps": config.solver_steps}
    settings = VSVFSettings((1.0,), (iterations,), first_step=FIRST_STEP, **solver)
    with torch.no_grad():
        if min(config.sigmas) < min(settings.sigmas):
            settings = replace(settings, sigmas=config.sigmas, weights=config.weights)
        first = config.scales_of(max(1, config.steps))[0]
        seen, source = (downsample(image, first) for image in (fixed, moving))
        momentum = model.momentum_net(warp_tensor(source, start.map(seen.shape[2:])), seen)
        smoother = MultiGaussian(settings.sigmas, settings.weights)
        momentum = smoother.momentum_of(momentum, model.smoother)
    return optimise_vsvf(fixed, moving, start, settings, momentum)


def working_size(image: sitk.Image, most: int = MOST_VOXELS) -> tuple[int, int, int]:
    """Give the size (x, y, z) of the grid on which an image is registered without a model, RAS+.

    Voxels are the image's own where ``most`` allows it, else larger and as close to cubes as they
    let them be. No side has less than ``LEAST_SIDE``.
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
    least_of = (("affine steps", affine_steps, 1), ("steps", steps, 0), ("refine", refine, 0))
    for name, value, least in least_of:
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
