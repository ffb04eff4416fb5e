"""Training of VoxelMorph: AVSM's pairs, batches, augmentation and number of optimiser steps."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from avsm.augment import change
from avsm.checkpoint import BEST, LAST, load_checkpoint, load_model
from avsm.data import ImageStore
from avsm.device import autocast, find_device
from avsm.errors import UserError
from avsm.loading import Batch, draw_batch
from avsm.losses import both_directions
from avsm.pairs import PairSampler, read_cohort
from avsm.presets import recipe_preset
from avsm.recipe import Recipe
from avsm.stage import Learner, StageRun
from avsm.validate import Validation
from baselines.tools.avsm import device_name
from baselines.tools.voxelmorph import Losses, VoxelMorph, build, describe
from workflow.contract.training import Trained, Training
from workflow.errors import ConfigError


class Setup(NamedTuple):
    """What a run is made of: model, images, pairs, losses, validation, settings."""

    model: VoxelMorph
    store: ImageStore
    sampler: PairSampler
    losses: Losses
    validation: Validation
    recipe: Recipe
    params: Mapping[str, Any]
    device: torch.device


def train(manifest: Path, state: Path, params: dict, context: Training) -> Trained:
    """Train on the pairs of the context's task; what is in `state` is gone on with.

    With a model in the context, its affine network goes in front.
    """
    torch.set_num_threads(context.threads)
    try:
        setup = set_up(manifest, state, params, context)
        run = fit(setup, state)
    except UserError as error:
        raise ConfigError(f"training of VoxelMorph: {error}") from error
    return Trained(
        state / BEST, state / "history.csv", state / "history.png", run.step, run.seconds,
        device_name(setup.device),
    )  # fmt: skip


def set_up(manifest: Path, state: Path, params: dict, context: Training) -> Setup:
    """Read the images and make the model with weights that the seed decides."""
    recipe = recipe_preset(params["preset"], context.task).change(
        {"seed": context.seed} | params["settings"] | {"momentum.rate": params["rate"]}
    )
    device = find_device(params["device"])
    cohort = read_cohort(manifest, recipe.task, context.couples)
    store = ImageStore(cohort.training, state, pinned=device.type == "cuda")
    affine = load_model(context.models[0]) if context.models else None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        model = build(params, affine)
    model.to(device, memory_format=torch.channels_last_3d)
    return Setup(
        model, store, cohort.sampler, Losses(params["window"], params["smoothness"]),
        Validation(cohort.validation, recipe, store.shape, context.labels or None, device),
        recipe, params, device,
    )  # fmt: skip


def fit(setup: Setup, state: Path) -> StageRun:
    """Train to the end, from the beginning or from where a killed run was."""
    model, recipe = setup.model, setup.recipe
    learner = Learner(
        "voxelmorph",
        model.net,
        draw=partial(draw_batch, setup.store, setup.sampler),
        losses=partial(batch_losses, setup),
        score=lambda: setup.validation.score(model, None),
        describe=lambda: describe(model, setup.store.shape, setup.params),
    )
    run = StageRun(learner, recipe.momentum, recipe, state, state, setup.device)
    previous = load_checkpoint(state / LAST) if (state / LAST).is_file() else None
    if previous is not None:
        model.net.load_state_dict(previous["weights"])
    run.run(previous)
    return run


def batch_losses(setup: Setup, batch: Batch) -> dict[str, torch.Tensor]:
    """Change images as AVSM does and batch the pairs both ways; give ``total`` and its terms."""
    images = batch.images_on(setup.device)
    images, _ = change(images, setup.recipe.augmentation, batch.generator)
    fixed, moving = both_directions(*images.chunk(2))
    with autocast(setup.device, setup.recipe.precision):
        result = setup.model(fixed, moving, reduction=batch.phase.reduction)
    return setup.losses(fixed, result)
