"""What a training batch is and what its losses are, for each stage and phase."""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass

import torch

from avsm.affine import (
    Affine,
    affine_regularisation_weight,
    change_frame,
    compose_affine,
)
from avsm.affine_net import AffineNet
from avsm.augment import (
    change,
    invert_affine,
    random_affine,
    random_black,
    random_contrast,
    random_shapes,
    resample,
    scale_affine,
)
from avsm.data import ImageStore
from avsm.device import autocast
from avsm.errors import UserError
from avsm.loading import Batch, draw_batch
from avsm.losses import affine_losses, both_directions, step_losses, sum_losses
from avsm.maps import half_shape, warp
from avsm.model import AVSM, Step
from avsm.pairs import PairSampler
from avsm.precision import full_precision
from avsm.recipe import Phase, Recipe
from avsm.reduction import frame_scale
from avsm.similarity import dense_windows, mk_lncc_loss, ncc_loss, paper_windows

KNOWN_SCALE = 1.2  # the largest known map, as a part of the maps between images
KNOWN_ERROR = 0.5  # the largest error of a known map as a start, as a part of random poses
Named = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Setup:
    """What the batches of a run are made of.

    Attributes
    ----------
    recipe
        The settings.
    model
        The networks that are trained.
    store
        The training images.
    sampler
        Draws the pairs.
    device
        Of the model.
    poses
        Affine maps from a common space to each training image (see ``align``); None if they were
        not aligned.
    """

    recipe: Recipe
    model: AVSM
    store: ImageStore
    sampler: PairSampler
    device: torch.device
    poses: Affine | None = None


def draw_pairs(
    setup: Setup, stage: str, phase: Phase, epoch: float, generator: torch.Generator
) -> Batch:
    """Draw a batch of a stage and a phase.

    Where the affine network learns known maps, half of the pairs are twice the same image, and all
    are if the images have no poses.
    """
    same = 0
    if stage == "affine" and phase.known:
        same = phase.pairs if setup.poses is None else phase.pairs // 2
    return draw_batch(setup.store, setup.sampler, phase, epoch, generator, same)


def batch_losses(setup: Setup, stage: str, batch: Batch) -> Named:
    """Give the loss ``total`` of a batch, and the terms by name.

    Parameters
    ----------
    setup
        Model and images.
    stage
        ``affine`` or ``momentum``: which network is trained.
    batch
        What it is trained on.
    """
    if stage == "affine":
        return _known_affine(setup, batch) if batch.phase.known else _affine(setup, batch)
    return _momentum(setup, batch)


def at_resolution(net: AffineNet, reduction: int) -> AffineNet:
    """Give the affine network, same weights, for images that are smaller by a factor already."""
    if net.config.reduction % reduction:
        raise UserError(
            f"reduction: expected a divisor of the affine network's {net.config.reduction}, "
            f"found {reduction}"
        )
    view = copy.copy(net)
    view.config = dataclasses.replace(net.config, reduction=net.config.reduction // reduction)
    return view


def _pairs(setup: Setup, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, Affine | None]:
    """Change each image by itself and batch the pairs both ways.

    Also gives the affine maps that match them, if the images have poses.
    """
    images = batch.images_on(setup.device)
    images, changes = change(images, setup.recipe.augmentation, batch.generator)
    fixed, moving = both_directions(*images.chunk(2))
    poses = _poses(setup, batch.phase)
    if poses is None:
        return fixed, moving, None
    known = compose_affine(invert_affine(changes), _choose(poses, batch.first + batch.second))
    one, other = (_choose(known, part) for part in torch.arange(len(images)).chunk(2))
    forward = compose_affine(other, invert_affine(one))
    return fixed, moving, _join(forward, invert_affine(forward))


def _poses(setup: Setup, phase: Phase) -> Affine | None:
    """Give the images' poses in the coordinates of the phase's images."""
    if setup.poses is None:
        return None
    return change_frame(setup.poses, frame_scale(setup.store.shape, phase.reduction))


def _similarity(setup: Setup, warped: torch.Tensor, fixed: torch.Tensor) -> torch.Tensor:
    recipe = setup.recipe
    if recipe.similarity == "ncc":
        return ncc_loss(warped, fixed, recipe.squared)
    choice = {"paper": paper_windows, "dense": dense_windows}[recipe.windows]
    return mk_lncc_loss(warped, fixed, choice(fixed.shape[2:]), recipe.squared)


def _affine(setup: Setup, batch: Batch) -> Named:
    """Stage 1: the complete affine loss (Eq. 6), on the last step's map."""
    fixed, moving, _ = _pairs(setup, batch)
    net = at_resolution(setup.model.affine_net, batch.phase.reduction)
    with autocast(setup.device, setup.recipe.precision):
        affine = net(fixed, moving, batch.phase.steps)[-1]
    warped = warp(moving, affine.map(fixed.shape[2:]))
    recipe = setup.recipe
    weight = affine_regularisation_weight(batch.epoch, recipe.lambda_ar, recipe.decay_ar)  # Eq. 13
    similarity = _similarity(setup, warped, fixed)
    return affine_losses(similarity, affine, weight, recipe.lambda_as)._asdict()


def _momentum(setup: Setup, batch: Batch) -> Named:
    """Stage 2: the losses of all vSVF steps (Eq. 12), the affine network fixed."""
    fixed, moving, known = _pairs(setup, batch)
    phase, start = batch.phase, None
    if phase.known and known is not None:
        start = _disturbed(setup, known, batch.generator)
    with autocast(setup.device, setup.recipe.precision):
        if start is not None:
            steps = _steps_from(setup, phase, fixed, moving, start)
        else:
            model = copy.copy(setup.model)
            model._modules = dict(model._modules)  # the original keeps its affine network
            model.affine_net = at_resolution(setup.model.affine_net, phase.reduction)
            steps = model(fixed, moving, steps=phase.steps).steps
    recipe = setup.recipe
    losses = [
        step_losses(
            _similarity(setup, step.warped, fixed),
            step.low_map,
            step.momentum,
            step.velocity,
            recipe.lambda_vr,
            recipe.lambda_vs,
        )
        for step in steps
    ]
    return sum_losses(losses)._asdict()


def _disturbed(setup: Setup, known: Affine, generator: torch.Generator) -> Affine:
    """Disturb known affine maps, both directions alike, as an affine network would."""
    count = len(known.offset) // 2
    error = random_affine(count, setup.recipe.augmentation, generator)
    error = scale_affine(error, KNOWN_ERROR * torch.rand(count, generator=generator))
    forward = compose_affine(_choose(known, torch.arange(count)), error)
    return _to(_join(forward, invert_affine(forward)), setup.device)


def _steps_from(
    setup: Setup, phase: Phase, fixed: torch.Tensor, moving: torch.Tensor, affine: Affine
) -> list[Step]:
    """Take vSVF steps from an affine map."""
    model, steps = setup.model, []
    low = affine.map(half_shape(fixed.shape[2:]))
    warped = warp(moving, affine.map(fixed.shape[2:]))
    for _ in range(phase.steps):
        steps.append(model.vsvf(model.predict_momentum(warped, fixed), low, moving))
        low, warped = steps[-1].low_map, steps[-1].warped
    return steps


def _known_affine(setup: Setup, batch: Batch) -> Named:
    """Compare predicted affine maps with known ones, of all sizes that the steps come across."""
    fixed, moving, expected = _known_pairs(setup, batch)
    net = at_resolution(setup.model.affine_net, batch.phase.reduction)
    with autocast(setup.device, setup.recipe.precision):
        affine = net(fixed, moving, batch.phase.steps)[-1]
    error = distance(affine, expected).mean()
    return {"total": error, "known": error}


def _known_pairs(setup: Setup, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, Affine]:
    """Make pairs of images both ways, and the affine maps that match them.

    The fixed image is read at a_i(c(x)), the moving one at a_j(c(r^-1(x))), with the images' poses
    a and a random pose c: the map that matches them is r. Shapes and contrasts change at random.
    """
    spread, generator, count = setup.recipe.augmentation, batch.generator, batch.phase.pairs
    poses = _poses(setup, batch.phase)
    pose, wanted = _random_poses(setup, poses, count, generator)
    back = compose_affine(pose, invert_affine(wanted))
    if poses is not None:
        pose = compose_affine(_choose(poses, batch.first), pose)
        back = compose_affine(_choose(poses, batch.second), back)
    images = batch.images_on(setup.device)
    shapes = random_shapes(2 * count, images.shape[2:], spread, generator)
    images = resample(images, _join(pose, back), shapes)
    images = random_contrast(images, spread, generator)
    fixed, moving = both_directions(*images.chunk(2))
    expected = _to(_join(wanted, invert_affine(wanted)), setup.device)
    return fixed, random_black(moving, spread, generator), expected


def _random_poses(
    setup: Setup, poses: Affine | None, count: int, generator: torch.Generator
) -> tuple[Affine, Affine]:
    """Draw the pose c of a pair and the map r: as images differ in pose, and at random."""
    spread = setup.recipe.augmentation
    scale = KNOWN_SCALE * torch.rand(count, generator=generator) ** 2
    pose = random_affine(count, spread, generator)
    wanted = scale_affine(random_affine(count, spread, generator), 2 * scale)
    if poses is not None:
        some, other, third = torch.randint(len(setup.store), (3, count), generator=generator)
        inverse = invert_affine(_choose(poses, some))
        pose = compose_affine(inverse, pose)
        inverse = invert_affine(_choose(poses, other))
        between = compose_affine(_choose(poses, third), inverse)
        wanted = compose_affine(scale_affine(between, scale), wanted)
    return pose, wanted


@full_precision
def distance(affine: Affine, expected: Affine) -> torch.Tensor:
    """Give the root mean square distance of two affine maps over the volume, ``(B,)``.

    In normalised coordinates. Its gradient is of the same size for large and for small distances:
    early steps and the last ones are learnt alike.
    """
    matrix = (affine.matrix - expected.matrix).square().sum(dim=(1, 2)) / 3  # x^2 averages to 1/3
    offset = (affine.offset - expected.offset).square().sum(dim=1)
    return (matrix + offset + 1e-8).sqrt()


def _to(affine: Affine, device: torch.device) -> Affine:
    return Affine(affine.matrix.to(device), affine.offset.to(device))


def _choose(affine: Affine, indices: torch.Tensor | list[int]) -> Affine:
    return Affine(affine.matrix[indices], affine.offset[indices])


def _join(first: Affine, second: Affine) -> Affine:
    return Affine(*(torch.cat(parts) for parts in zip(first, second, strict=True)))
