"""One stage of training: epochs, learning rate, validation, checkpoints, report."""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

import torch

from avsm.augment import keyed_generator
from avsm.checkpoint import BEST, LAST, describe_model, save_checkpoint
from avsm.errors import UserError
from avsm.history import Row, describe_row, epoch_row, time_left, write_history
from avsm.model import AVSM
from avsm.objectives import Setup, batch_losses
from avsm.recipe import Phase, StageRecipe
from avsm.validate import Score

log = logging.getLogger(__name__)


class Scorer(Protocol):
    """Scores a model on validation pairs."""

    def score(self, model: AVSM, steps: int | None) -> Score:
        """Give the score after ``steps`` vSVF steps."""


def phase_at(stage: StageRecipe, progress: float) -> Phase:
    """Give the phase at a part of the stage in [0, 1)."""
    return next(phase for phase in stage.phases if progress < phase.until)


def rate_at(stage: StageRecipe, progress: float, epoch: int) -> float:
    """Give the learning rate at a part of the stage in [0, 1)."""
    rise = min(1.0, (progress + 1e-3) / stage.warmup) if stage.warmup else 1.0
    if stage.schedule == "halve":
        return stage.rate * rise * 0.5 ** (epoch // stage.halve_every)
    return stage.rate * rise * max(0.01, 0.5 + 0.5 * math.cos(math.pi * progress))


class StageRun:
    """Train one network.

    Parameters
    ----------
    name
        ``affine`` or ``momentum``.
    setup
        Model, images, recipe.
    validation
        Scores the model after each epoch.
    out
        The run's folder.
    rows
        The history of the stage before.
    description
        ``shape`` and ``trained`` of the checkpoints, see ``checkpoint.describe_model``.
    """

    def __init__(
        self,
        name: str,
        setup: Setup,
        validation: Scorer,
        out: Path,
        rows: list[Row],
        description: dict[str, Any],
    ) -> None:
        self.name, self.setup, self.validation, self.out = name, setup, validation, out
        self.recipe = setup.recipe
        self.stage: StageRecipe = getattr(setup.recipe, name)
        self.before, self.rows = rows, []
        self.description = description
        self.net = setup.model.affine_net if name == "affine" else setup.model.momentum_net
        self.optimiser = torch.optim.Adam(self.net.parameters(), lr=self.stage.rate)
        self.epoch, self.step, self.seconds, self.best = 0, 0, 0.0, -1.0

    def run(self, previous: dict[str, Any] | None = None) -> list[Row]:
        """Train to the end of the stage; return the history of this stage and of those before."""
        for parameter in self.setup.model.parameters():
            parameter.requires_grad_(False)
        for parameter in self.net.parameters():
            parameter.requires_grad_(True)
        if previous is not None:
            self._restore(previous)
        self._clock = time.monotonic() - self.seconds
        if previous is None:
            self._close_epoch({}, 0)
        while self._progress() < 1:
            self._one_epoch()
        return self.before + self.rows

    def _progress(self) -> float:
        """Give the part of the stage that is done."""
        if self.stage.max_minutes is not None:
            return (time.monotonic() - self._clock) / (60 * self.stage.max_minutes)
        return self.step / (self.stage.epochs * self.stage.batches)

    def _one_epoch(self) -> None:
        self.epoch += 1
        sums: dict[str, float] = {}
        done = 0
        for batch in _with_bar(range(self.stage.batches), f"{self.name} epoch {self.epoch}"):
            progress = self._progress()
            if progress >= 1:
                break
            for name, value in self._one_batch(batch, progress).items():
                sums[name] = sums.get(name, 0.0) + value
            done += 1
        if done:
            self._close_epoch({name: total / done for name, total in sums.items()}, done)

    def _one_batch(self, batch: int, progress: float) -> dict[str, float]:
        phase, epoch = phase_at(self.stage, progress), self.epoch - 1
        for group in self.optimiser.param_groups:
            group["lr"] = rate_at(self.stage, progress, epoch)
        generator = keyed_generator(self.recipe.seed, self.name, epoch, batch)
        self.optimiser.zero_grad(set_to_none=True)
        losses = batch_losses(self.setup, self.name, phase, epoch, generator)
        losses["total"].backward()
        values = {name: float(loss.detach()) for name, loss in losses.items()}
        limit = math.inf if self.stage.clip is None else self.stage.clip
        norm = torch.nn.utils.clip_grad_norm_(self.net.parameters(), limit)
        if not (math.isfinite(values["total"]) and bool(norm.isfinite())):
            raise UserError(
                f"{self.name} epoch {self.epoch}, batch {batch}: expected a finite loss and "
                f"gradient, found {values}, {float(norm):g}; lower {self.name}.rate"
            )
        self.optimiser.step()
        self.step += 1
        return values

    def _close_epoch(self, losses: dict[str, float], batches: int) -> None:
        """Validate, report and save."""
        score = self.validation.score(self.setup.model, 0 if self.name == "affine" else None)
        improved = score.dice > self.best
        self.best = max(self.best, score.dice)
        now = time.monotonic() - self._clock
        progress = min(self._progress(), 1.0)
        row = epoch_row(
            self.name,
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
        log.info(describe_row(row, self.best, time_left(now, progress)))
        self._save(improved)
        write_history(self.out, self.before + self.rows)

    def _save(self, improved: bool) -> None:
        folder = self.out / self.name
        content = describe_model(self.setup.model, **self.description) | {
            "stage": self.name,
            "epoch": self.epoch,
            "step": self.step,
            "seed": self.recipe.seed,  # with epoch and batch, the state of all generators
            "recipe": self.recipe.to_dict(),
            "rows": self.rows,
        }
        if improved:
            save_checkpoint(folder / BEST, content)
        poses = self.setup.poses
        state = {
            "optimiser": self.optimiser.state_dict(),
            "seconds": self.seconds,
            "best": self.best,
            "poses": None if poses is None else list(poses),
        }
        save_checkpoint(folder / LAST, content | state)

    def _restore(self, previous: dict[str, Any]) -> None:
        self.setup.model.load_state_dict(previous["weights"])
        self.optimiser.load_state_dict(previous["optimiser"])
        for name in ("epoch", "step", "seconds", "best", "rows"):
            setattr(self, name, previous[name])
        log.info("%s: go on after epoch %d", self.name, self.epoch)


def _with_bar(batches: Iterable[int], title: str) -> Iterator[int] | Iterable[int]:
    """Show a progress bar on a terminal, nothing in a log."""
    if not sys.stderr.isatty():
        return batches
    try:
        from tqdm import tqdm
    except ImportError:
        return batches
    return tqdm(batches, desc=title, leave=False)
