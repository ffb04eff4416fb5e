"""Training of VoxelMorph by AVSM's trainer: its images, schedule, average and number of steps."""

from pathlib import Path

import torch
from torch import Tensor

from avsm.data import Pairs, read_data
from avsm.device import device_name, find_device
from avsm.model import BEST, LAST, load_checkpoint, load_model
from avsm.settings import Phase, Recipe, recipe_preset
from avsm.train import deformable_start
from avsm.trainer import Task, Trainer, check_same
from baselines.voxelmorph.register import Losses, VoxelMorph, describe, load, shaped_by
from workflow.contract.training import Trained, Training


def train(manifest: Path, state: Path, params: dict, context: Training) -> Trained:
    """Train on the pairs of the context's task; what is in `state` is gone on with.

    With a model in the context, its affine network goes in front.
    """
    torch.set_num_threads(context.threads)
    recipe = recipe_preset(params["preset"], context.task).change(
        {"seed": context.seed} | params["settings"] | {"momentum.rate": params["rate"]}
    )
    recipe = recipe.continued() if context.start else recipe
    device = find_device(params["device"])
    inputs = context.labels, context.couples, context.source
    data = read_data(manifest, recipe, state, device, *inputs)
    affine = load_model(context.models[0]) if context.models else None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        model = VoxelMorph(**shaped_by(params), affine=affine, precision=recipe.model.precision)
    if context.start:
        before = load(context.start, affine)
        check_same(context.start, "another network", before.shaped_by, shaped_by(params))
        model.net.load_state_dict(before.model.net.state_dict())
    model.to(device, memory_format=torch.channels_last_3d)
    losses = Losses(params["window"], params["smoothness"])

    task = Task(
        "voxelmorph",
        model.net,
        data,
        lambda pairs, phase, epoch, generator: pair_losses(
            model, losses, pairs, recipe, phase, generator
        ),
        find_map=lambda fixed, moving: model(fixed, moving).map,
        describe=lambda: describe(model, data.source.shape, params),
    )
    previous = load_checkpoint(state / LAST) if (state / LAST).is_file() else None
    trainer = Trainer(
        task, recipe.momentum, recipe.seed, state, state, device, recipe.model.precision
    )
    trainer.run(previous)
    return Trained(
        state / BEST, state / "history.csv", state / "history.png", trainer.step, trainer.seconds,
        device_name(device), trainer.precision,
    )  # fmt: skip


def pair_losses(
    model: VoxelMorph,
    losses: Losses,
    pairs: Pairs,
    recipe: Recipe,
    phase: Phase,
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """Give the losses of a batch of both directions; an affine part starts as AVSM's does."""
    start = None
    if model.affine_net is not None:
        start = deformable_start(
            model.affine_net, pairs.fixed, pairs.moving, model.affine_steps, recipe, phase.scale,
            generator,
        )  # fmt: skip
    result = model(pairs.fixed, pairs.moving, start)
    warped = pairs.judged(result.warped, result.map)
    return losses(pairs.judged_fixed, warped, result.velocity)
