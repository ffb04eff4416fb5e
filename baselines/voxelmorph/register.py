"""VoxelMorph, by the package `voxelmorph`, alone or behind AVSM's affine network.

Dalca et al., "Unsupervised learning for fast probabilistic diffeomorphic registration", MICCAI
2018; Balakrishnan et al., "VoxelMorph: a learning framework for deformable medical image
registration", IEEE TMI 2019. VoxelMorph's velocities and displacements u are in voxels of the grid,
channels in the order of the array axes (z, y, x): the moving image is read at i + u(i). Maps are in
the normalised coordinates of `avsm.maps`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import neurite
import SimpleITK as sitk
import torch
import torch.nn.functional as F
import voxelmorph
from torch import Tensor, nn

from avsm.device import autocast, device_name, find_device, precision_name
from avsm.errors import UserError
from avsm.images import ORIENTATION
from avsm.maps import Affine, check_pair, half_shape, identity_map, resize, spacing, warp
from avsm.model import FORMAT, TrainedModel, load_checkpoint, load_model
from avsm.networks import Conv3d
from avsm.physical import pair_on_grid, physical_displacement
from workflow.contract.registration import Context, Registration

KIND = "voxelmorph"  # what a model file says it is
SLOPE = 0.2  # of the leaky ReLUs, as in the VoxelMorph papers; the package's default is a ReLU


class Warping(NamedTuple):
    """The result for a batch."""

    velocity: Tensor  # ``(B, 3, D', H', W')``, at half the resolution, in its voxels
    map: Tensor  # ``(B, 3, D, H, W)``, normalised; an affine part is composed in
    warped: Tensor  # the moving image read at the map, ``(B, 1, D, H, W)``


class VoxelMorph(nn.Module):
    """Register pairs by a velocity that one pass of a U-Net predicts, behind an affine network.

    `features` are the channels of the U-Net's levels, from the finest; the grid is halved behind
    each. The velocity is integrated by squarings (`integration_steps`) at half the resolution, as
    in Dalca et al. 2018; the package's own forward pass integrates at the full one, where that
    takes longer than the U-Net. The affine network stays as it is; None: there is none.
    """

    def __init__(
        self,
        features: Sequence[int],
        integration_steps: int,
        affine: TrainedModel | None = None,
        precision: str = "auto",
    ) -> None:
        super().__init__()
        self.levels, self.precision = len(features), precision
        self.net = voxelmorph.nn.models.VxmPairwise(
            ndim=3,
            source_channels=1,
            target_channels=1,
            nb_features=list(features),
            activations=nn.LeakyReLU(SLOPE),
            integration_steps=integration_steps,
        )
        for module in self.net.modules():
            if type(module) is nn.Conv3d:
                module.__class__ = Conv3d  # the same, as fast for one image as AVSM's
        self.affine_net, self.affine_steps = None, 0
        if affine is not None:
            self.affine_net = affine.model.affine_net.requires_grad_(False)
            self.affine_steps = affine.model.config.affine_steps

    def forward(self, fixed: Tensor, moving: Tensor, start: Affine | None = None) -> Warping:
        """Register moving to fixed images ``(B, 1, D, H, W)``, intensities in [0, 1].

        `start` is the affine map to go on from; None takes the affine network's, if there is one.
        """
        check_pair(fixed, moving)
        if start is None and self.affine_net is not None:
            with torch.no_grad():
                start = self.affine_net(fixed, moving, self.affine_steps)[-1]
        seen = moving if start is None else warp(moving, start.map(fixed.shape[2:]))
        velocity = self._velocity(fixed, seen)
        phi = self._integrate(velocity, fixed.shape[2:])
        if start is not None:  # A phi(x) + b: exact, as an affine map needs no interpolation
            moved = start.matrix @ phi.flatten(2) + start.offset[..., None]
            phi = moved.unflatten(2, phi.shape[2:])
        return Warping(velocity, phi, warp(moving, phi))

    def _velocity(self, fixed: Tensor, moving: Tensor) -> Tensor:
        """Predict on a grid that halves evenly, black beyond the images, and cut that off."""
        shape = fixed.shape[2:]
        (z, y, x), (d, h, w) = shape, even_shape(shape, self.levels)
        moving, fixed = (F.pad(i, (0, w - x, 0, h - y, 0, d - z)) for i in (moving, fixed))
        with autocast(fixed.device, self.precision):
            velocity = self.net(moving, fixed, return_field_type="velocity")
        return resize_voxels(velocity[:, :, :z, :y, :x].float(), half_shape(shape))

    def _integrate(self, velocity: Tensor, shape: Sequence[int]) -> Tensor:
        """Integrate by scaling and squaring; give the map on a grid, ``(B, 3, D, H, W)``."""
        displacement = resize_voxels(self.net.velocity_field_integrator(velocity), shape)
        scale = torch.tensor(spacing(shape)).to(displacement)
        return identity_map(shape, displacement) + scale[:, None, None, None] * displacement


def even_shape(shape: Sequence[int], levels: int) -> tuple[int, int, int]:
    """Give the least grid about a grid whose sides halve `levels` times, to 2 voxels or more.

    The package joins features of a level with those of the next, twice as large: sides must be
    multiples of 2**levels.
    """
    unit = 2**levels
    depth, height, width = (unit * max(2, -(-int(n) // unit)) for n in shape)
    return depth, height, width


def resize_voxels(field: Tensor, shape: Sequence[int]) -> Tensor:
    """Bring displacements in voxels ``(B, 3, D, H, W)`` to another grid, and to its voxels."""
    before, now = (torch.tensor(spacing(grid)) for grid in (field.shape[2:], shape))
    return resize(field, shape) * (before / now).to(field)[:, None, None, None]


class Losses(nn.Module):
    """The squared local correlation (NCC) and the smoothness of the velocity, both neurite's.

    `window` is the side of the NCC window in voxels, `smoothness` the weight of the velocity's mean
    squared gradient (dimensionless).
    """

    def __init__(self, window: int, smoothness: float) -> None:
        super().__init__()
        self.ncc = neurite.nn.modules.NCC(window, keepdims=False)
        self.gradient = neurite.nn.modules.SpatialGradient("l2")
        self.smoothness = smoothness

    def forward(self, fixed: Tensor, warped: Tensor, velocity: Tensor) -> dict[str, Tensor]:
        """Give ``total``, ``similarity`` (1 - NCC) and ``regularisation``."""
        similarity = 1 - self.ncc(_double(fixed), _double(warped)).float()
        regularisation = self.smoothness * self.gradient(velocity)
        return {
            "total": similarity.to(regularisation.device) + regularisation,
            "similarity": similarity,
            "regularisation": regularisation,
        }


def _double(image: Tensor) -> Tensor:
    """Give an image in double precision, on the processor where the device has none.

    NCC takes variances as differences of sums over a window. In single precision they come out
    below zero where images are flat, coefficients leave [0, 1], and neurite stops the run.
    """
    return image.to("cpu" if image.device.type == "mps" else image.device, torch.float64)


class Loaded(NamedTuple):
    """A trained model in evaluation mode, and the grid (D, H, W), axes RAS+, it was trained on."""

    model: VoxelMorph
    shape: tuple[int, int, int]
    shaped_by: dict[str, Any]  # its parameters


def shaped_by(params: Mapping[str, Any]) -> dict[str, Any]:
    """Give those of a network's parameters that shape the model."""
    return {name: params[name] for name in ("features", "integration_steps")}


def describe(model: VoxelMorph, shape: Sequence[int], params: Mapping[str, Any]) -> dict[str, Any]:
    """Give the content of a model file; an affine network in front has a file of its own."""
    return {
        "format": FORMAT,
        "kind": KIND,
        "orientation": ORIENTATION,
        "shape": list(shape),
        "params": dict(params),
        "affine": model.affine_net is not None,
        "precision": model.precision,
        "weights": model.net.state_dict(),
    }


def load(path: Path, affine: TrainedModel | None = None) -> Loaded:
    """Read a model file.

    A UserError says if it is none of VoxelMorph's, or was trained with an affine network in front
    and is given none, or the other way round.
    """
    content = load_checkpoint(path)
    if content.get("kind") != KIND:
        raise UserError(f"{path}: expected a model of VoxelMorph; train it anew")
    if content["affine"] != (affine is not None):
        was, found = ("with", "none") if content["affine"] else ("without", "one")
        raise UserError(f"{path}: trained {was} an affine network in front, but found {found}")
    made_by = shaped_by(content["params"])
    model = VoxelMorph(**made_by, affine=affine, precision=content["precision"])
    model.net.load_state_dict(content["weights"])
    depth, height, width = content["shape"]
    return Loaded(model.eval(), (depth, height, width), made_by)


def prepare(params: dict, context: Context) -> Loaded:
    """Set the threads and load the models: VoxelMorph's, then the affine one if there is one."""
    torch.set_num_threads(context.threads)
    first, *others = context.models
    loaded = load(first, load_model(others[0]) if others else None)
    loaded.model.to(find_device(params["device"]), memory_format=torch.channels_last_3d)
    return loaded


def register(fixed: sitk.Image, moving: sitk.Image, params: dict, context: Context) -> Registration:
    """Register by the network that `prepare` loaded; settings are those of its training."""
    model, shape, _ = context.prepared
    device = next(model.net.parameters()).device
    with torch.inference_mode():
        result = model(*pair_on_grid(fixed, moving, shape, device, normalised=True))
    displacement = physical_displacement(result.map.cpu(), fixed, moving)
    return Registration(displacement, device_name(device), precision_name(device, model.precision))
