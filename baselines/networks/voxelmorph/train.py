"""Training of VoxelMorph: AVSM's pairs, batches, augmentation and number of optimiser steps."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from avsm.augment import change, keyed_generator
from avsm.checkpoint import BEST, LAST, load_checkpoint, load_model, save_checkpoint
from avsm.data import ImageStore
from avsm.device import autocast, find_device
from avsm.errors import UserError
from avsm.history import Row, describe_row, epoch_row, time_left, write_history
from avsm.losses import both_directions
from avsm.pairs import PairSampler, read_manifest
from avsm.presets import recipe_preset
from avsm.recipe import Phase, Recipe
from avsm.stage import phase_at, rate_at
from avsm.train import Validation
from baselines.tools.avsm import device_name
from baselines.tools.voxelmorph import Losses, VoxelMorph, build, describe
from workflow.contract.training import Trained, Training
from workflow.errors import ConfigError

log = logging.getLogger(__name__)


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
        run = Run(setup, state)
        run.run()
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
    scans = read_manifest(manifest)
    training, validation = (
        [scan for scan in scans if scan.split == split] for split in ("train", "validation")
    )
    sampler, store = PairSampler(training, recipe.task), ImageStore(training, state)
    affine = load_model(context.models[0]) if context.models else None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        model = build(params, affine)
    model.to(device, memory_format=torch.channels_last_3d)
    return Setup(
        model, store, sampler, Losses(params["window"], params["smoothness"]),
        Validation(validation, recipe, store.shape, context.labels or None, device),
        recipe, params, device,
    )  # fmt: skip


def batch_losses(setup: Setup, phase: Phase, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Draw pairs as AVSM does, each in both directions; give ``total`` and the terms by name."""
    first, second = setup.sampler.draw(phase.pairs, generator)
    images = setup.store.batch([*first, *second], phase.reduction, setup.device)
    images, _ = change(images, setup.recipe.augmentation, generator)
    fixed, moving = both_directions(*images.chunk(2))
    with autocast(setup.device, setup.recipe.precision):
        result = setup.model(fixed, moving, reduction=phase.reduction)
    return setup.losses(fixed, result)


class Run:
    """The epochs: learning rate, validation, checkpoints, report.

    After each epoch the folder has ``last.pt`` to resume from, ``best.pt`` with the weights of the
    best validation Dice, ``history.csv`` and ``history.png``. On a processor a resumed run reaches
    exactly the losses of an unbroken one.

    Parameters
    ----------
    setup : what is trained, on what.
    state : the folder.
    """

    def __init__(self, setup: Setup, state: Path) -> None:
        self.setup, self.state, self.stage = setup, state, setup.recipe.momentum
        self.optimiser = torch.optim.Adam(setup.model.net.parameters(), lr=self.stage.rate)
        self.rows: list[Row] = []
        self.epoch, self.step, self.seconds, self.best = 0, 0, 0.0, -1.0

    def run(self) -> None:
        """Train to the end, from the beginning or from where a killed run was."""
        found = (self.state / LAST).is_file()
        if found:
            self._restore(load_checkpoint(self.state / LAST))
        self._clock = time.monotonic() - self.seconds
        if not found:
            self._close_epoch({}, 0)
        while self.epoch < self.stage.epochs:
            self.epoch += 1
            losses = [self._one_batch(batch) for batch in range(self.stage.batches)]
            names = losses[0]
            means = {name: sum(loss[name] for loss in losses) / len(losses) for name in names}
            self._close_epoch(means, len(losses))

    @property
    def _progress(self) -> float:
        return self.step / (self.stage.epochs * self.stage.batches)

    def _one_batch(self, batch: int) -> dict[str, float]:
        epoch = self.epoch - 1
        for group in self.optimiser.param_groups:
            group["lr"] = rate_at(self.stage, self._progress, epoch)
        generator = keyed_generator(self.setup.recipe.seed, "voxelmorph", epoch, batch)
        self.optimiser.zero_grad(set_to_none=True)
        losses = batch_losses(self.setup, phase_at(self.stage, self._progress), generator)
        losses["total"].backward()
        limit = math.inf if self.stage.clip is None else self.stage.clip
        norm = torch.nn.utils.clip_grad_norm_(self.setup.model.net.parameters(), limit)
        values = {name: float(loss.detach()) for name, loss in losses.items()}
        if not (math.isfinite(values["total"]) and bool(norm.isfinite())):
            raise UserError(
                f"epoch {self.epoch}, batch {batch}: expected a finite loss and gradient, found "
                f"{values}, {float(norm):g}; lower rate"
            )
        self.optimiser.step()
        self.step += 1
        return values

    def _close_epoch(self, losses: dict[str, float], batches: int) -> None:
        """Validate, report and save."""
        score = self.setup.validation.score(self.setup.model, None)
        improved = score.dice > self.best
        self.best = max(self.best, score.dice)
        now = time.monotonic() - self._clock
        row = epoch_row(
            "voxelmorph",
            self.epoch,
            losses,
            score,
            self.optimiser,
            batches=batches,
            seconds=now - self.seconds,
            device=self.setup.device,
        )
        self.seconds = now
        self.rows.append(row)
        log.info(describe_row(row, self.best, time_left(now, self._progress)))
        self._save(improved)
        write_history(self.state, self.rows)

    def _save(self, improved: bool) -> None:
        setup = self.setup
        content = describe(setup.model, setup.store.shape, setup.params)
        content |= {"recipe": setup.recipe.to_dict(), "epoch": self.epoch, "step": self.step}
        if improved:
            save_checkpoint(self.state / BEST, content)
        kept = {name: getattr(self, name) for name in ("seconds", "best", "rows")}
        save_checkpoint(
            self.state / LAST, content | kept | {"optimiser": self.optimiser.state_dict()}
        )

    def _restore(self, previous: Mapping[str, Any]) -> None:
        self.setup.model.net.load_state_dict(previous["weights"])
        self.optimiser.load_state_dict(previous["optimiser"])
        for name in ("epoch", "step", "seconds", "best", "rows"):
            setattr(self, name, previous[name])
        log.info("a run goes on after epoch %d", self.epoch)
