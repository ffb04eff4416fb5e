"""Instance optimisation: refine what the networks predict on the pair itself."""

from dataclasses import replace

import torch
from torch import Tensor

from avsm.maps import warp
from avsm.model import AVSM
from avsm.optimise import (
    AffineSettings,
    OptimisedVSVF,
    VSVFSettings,
    full_pair,
    optimise_affine,
    optimise_vsvf,
)
from avsm.pyramid import downsample
from avsm.vsvf import MultiGaussian

FIRST_STEP = 0.02  # of L-BFGS: the start is near already
AFFINE = AffineSettings(scales=(0.5, 1.0), iterations=(15, 15))


@torch.inference_mode(False)
def refine(
    model: AVSM,
    fixed: Tensor,
    moving: Tensor,
    iterations: int,
    affine_steps: int | None = None,
    affine: bool = False,
) -> OptimisedVSVF:
    """Register one pair: the affine network, one step of the momentum network, and L-BFGS from it.

    One predicted step is as good a start as several. ``optimise_vsvf`` goes on from its velocity,
    with a finer smoothing operator than the network's, unless that is finer still. The images are
    ``(1, 1, D, H, W)``, intensities in [0, 1]; the model's weights stay as they are. ``iterations``
    are those of L-BFGS, which never leaves a higher loss; 0 gives the step as predicted, on images
    of the resolution of the model's first one. With ``affine`` the affine parameters are optimised
    first, from those of the network.
    """
    config = model.config
    fixed, moving = full_pair(fixed, moving)
    with torch.no_grad():
        steps = config.affine_steps if affine_steps is None else affine_steps
        start = model.affine_net(fixed, moving, steps)[-1]
    if affine:
        start = optimise_affine(fixed, moving, AFFINE, start).affine
    solver = {"solver": config.solver, "solver_steps": config.solver_steps}
    settings = VSVFSettings((1.0,), (iterations,), first_step=FIRST_STEP, **solver)
    with torch.no_grad():
        if min(config.sigmas) < min(settings.sigmas):
            settings = replace(settings, sigmas=config.sigmas, weights=config.weights)
        first = config.scales_of(max(1, config.steps))[0]
        seen, source = (downsample(image, first) for image in (fixed, moving))
        momentum = model.momentum_net(warp(source, start.map(seen.shape[2:])), seen)
        smoother = MultiGaussian(settings.sigmas, settings.weights)
        momentum = smoother.momentum_of(momentum, model.smoother)
    return optimise_vsvf(fixed, moving, start, settings, momentum)
