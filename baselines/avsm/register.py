"""AVSM by the library `avsm`; its networks alone and its optimisations are methods as well.

Shen et al., "Networks for Joint Affine and Non-parametric Image Registration", CVPR 2019.
"""

from typing import NamedTuple

import SimpleITK as sitk
import torch

from avsm import registration
from avsm.device import device_name, find_device, precision_name
from avsm.images import canonical
from avsm.model import TrainedModel, load_model
from avsm.physical import pair_on_grid, physical_displacement
from workflow.contract.registration import Context, Registration


class Prepared(NamedTuple):
    """What is made once for a shard: the device, and the trained model of learned methods."""

    device: torch.device
    model: TrainedModel | None


def prepare(params: dict, context: Context) -> Prepared:
    """Set the threads, find the device and load the model, if the method has one."""
    torch.set_num_threads(context.threads)
    device = find_device(params["device"])
    if not context.models:
        return Prepared(device, None)
    trained = load_model(context.models[0])
    trained.model.to(device, memory_format=torch.channels_last_3d)
    return Prepared(device, trained)


def register(fixed: sitk.Image, moving: sitk.Image, params: dict, context: Context) -> Registration:
    """Register by both networks, or by one step of them that is refined on the pair itself."""
    refine = params["iterations"]
    steps = None if refine else params["steps"]
    return by_networks(fixed, moving, context.prepared, params["affine_steps"], steps, refine)


def by_networks(
    fixed: sitk.Image,
    moving: sitk.Image,
    prepared: Prepared,
    affine_steps: int,
    steps: int | None,
    refine: int = 0,
) -> Registration:
    """Register by the networks, which see the preprocessed images as they are.

    Both images lie on the grid that the networks were trained on.
    """
    displacement, _ = registration.register(
        fixed, moving, prepared.model, affine_steps, steps, refine,
        normalised=True, device=str(prepared.device), warp=False,
    )  # fmt: skip
    precision = precision_name(prepared.device, prepared.model.model.config.precision)
    return Registration(displacement, device_name(prepared.device), precision)


def tensors(fixed: sitk.Image, moving: sitk.Image, device: torch.device) -> list[torch.Tensor]:
    """Return both images as ``(1, 1, D, H, W)``, axes RAS+, on the fixed image's working grid."""
    shape = canonical(fixed).GetSize()[::-1]
    return pair_on_grid(fixed, moving, shape, device, normalised=True)


def from_map(
    phi: torch.Tensor, fixed: sitk.Image, moving: sitk.Image, device: torch.device
) -> Registration:
    """Return the registration of a map ``(1, 3, D, H, W)`` between the images of `tensors`."""
    return Registration(physical_displacement(phi.cpu(), fixed, moving), device_name(device))
