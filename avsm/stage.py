"""One stage of training: epochs, learning rate, validation, checkpoints, report."""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from avsm.augment import keyed_generator
from avsm.checkpoint import BEST, LAST, save_checkpoint
from avsm.errors import UserError
from avsm.history import Row, describe_row, epoch_row, time_left, write_history
from avsm.loading import Batch, one_ahead
from avsm.recipe import Phase, Recipe, StageRecipe
from avsm.validate import Score

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Learner:
    """What a stage trains, and how it is judged.

    Attributes
    ----------
    name
        In the history and in messages.
    net
        The network; its parameters are optimised.
    draw
        Draws a batch by a generator, for a phase and an epoch from 0.
    losses
        Gives the loss ``total`` of a batch and its terms by name.
    score
        Gives the score on the validation pairs.
    describe
        Gives all that is needed to use the network, with its ``weights``, as plain data.
    kept
        What only a resumed run needs besides.
    """

    name: str
    net: nn.Module
    draw: Callable[[Phase, float, torch.Generator], Batch]
    losses: Callable[[Batch], dict[str, torch.Tensor]]
    score: Callable[[], Score]
    describe: Callable[[], dict[str, Any]]
    kept: Mapping[str, Any] = field(default_factory=dict)


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

    After each epoch the folder has ``last.pt`` to resume from and ``best.pt`` with the weights of
    the best validation Dice. On a processor a resumed run reaches exactly the losses of an
    unbroken one, unless minutes limit it.

    Parameters
    ----------
    learner
        What is trained.
    stage
        Epochs, phases and learning rate.
    recipe
        The settings that the stage is part of.
    folder
        Where the checkpoints go.
    report
        Where ``history.csv`` and ``history.png`` go.
    device
        Of the network.
    before
        The history of the stage before.
    """

    def __init__(
        self,
        learner: Learner,
        stage: StageRecipe,
        recipe: Recipe,
        folder: Path,
        report: Path,
        device: torch.device,
        before: Sequence[Row] = (),
    ) -> None:
        self.learner, self.stage, self.recipe = learner, stage, recipe
        self.folder, self.report, self.device = folder, report, device
        self.before, self.rows = list(before), []
        self.optimiser = torch.optim.Adam(learner.net.parameters(), lr=stage.rate)
        self.epoch, self.step, self.seconds, self.best = 0, 0, 0.0, -1.0

    def run(self, previous: Mapping[str, Any] | None = None, spent: float = 0) -> list[Row]:
        """Train to the end of the stage; return the history of this stage and of that before.

        Parameters
        ----------
        previous
            The content of ``last.pt`` to go on from, whose weights the network has already.
        spent
            Seconds that went into its preparation, which count as training.
        """
        if previous is not None:
            self._restore(previous)
        self.seconds += spent
        self._clock = time.monotonic() - self.seconds
        if previous is None:
            self._close_epoch({}, 0)
        while self._progress(self.step) < 1:
            self._one_epoch()
        return self.before + self.rows

    def _progress(self, step: int) -> float:
        """Give the part of the stage that is done with so many steps."""
        if self.stage.max_minutes is not None:
            return (time.monotonic() - self._clock) / (60 * self.stage.max_minutes)
        return step / (self.stage.epochs * self.stage.batches)

    def _one_epoch(self) -> None:
        self.epoch += 1
        sums: dict[str, float] = {}
        before, draws = self.step, self._draws()
        # A processor would read in the time that it takes from the network.
        batches = (draw() for draw in draws) if self.device.type == "cpu" else one_ahead(draws)
        for progress, batch in batches:
            for name, value in self._one_batch(batch, progress).items():
                sums[name] = sums.get(name, 0.0) + value
        done = self.step - before
        if done:
            self._close_epoch({name: total / done for name, total in sums.items()}, done)

    def _draws(self) -> Iterator[Callable[[], tuple[float, Batch]]]:
        """Give what draws the epoch's batches, each with the part of the stage done before it."""
        name, epoch, before = self.learner.name, self.epoch - 1, self.step
        for number in _with_bar(range(self.stage.batches), f"{name} epoch {self.epoch}"):
            progress = self._progress(before + number)
            if progress >= 1:
                return
            generator = keyed_generator(self.recipe.seed, name, epoch, number)
            yield partial(self._draw, progress, generator)

    def _draw(self, progress: float, generator: torch.Generator) -> tuple[float, Batch]:
        phase = phase_at(self.stage, progress)
        return progress, self.learner.draw(phase, self.epoch - 1, generator)

    def _one_batch(self, batch: Batch, progress: float) -> dict[str, float]:
        name = self.learner.name
        for group in self.optimiser.param_groups:
            group["lr"] = rate_at(self.stage, progress, self.epoch - 1)
        self.optimiser.zero_grad(set_to_none=True)
        losses = self.learner.losses(batch)
        losses["total"].backward()
        values = {name: float(loss.detach()) for name, loss in losses.items()}
        limit = math.inf if self.stage.clip is None else self.stage.clip
        norm = torch.nn.utils.clip_grad_norm_(self.learner.net.parameters(), limit)
        if not (math.isfinite(values["total"]) and bool(norm.isfinite())):
            raise UserError(
                f"{name} epoch {self.epoch}, step {self.step + 1}: expected a finite loss and "
                f"gradient, found {values}, {float(norm):g}; start anew, with a rate of less than "
                f"{self.stage.rate:g}"
            )
        self.optimiser.step()
        self.step += 1
        return values

    def _close_epoch(self, losses: dict[str, float], batches: int) -> None:
        """Validate, report and save."""
        score = self.learner.score()
        improved = score.dice > self.best
        self.best = max(self.best, score.dice)
        now = time.monotonic() - self._clock
        progress = min(self._progress(self.step), 1.0)
        row = epoch_row(
            self.learner.name,
            self.epoch,
            losses,
            score,
            self.optimiser,
            batches=batches,
            seconds=now - self.seconds,
            device=self.device,
        )
        self.seconds = now
        self.rows.append(row)
        log.info(describe_row(row, self.best, time_left(now, progress)))
        self._save(improved)
        write_history(self.report, self.before + self.rows)

    def _save(self, improved: bool) -> None:
        content = self.learner.describe() | {
            "stage": self.learner.name,
            "epoch": self.epoch,
            "step": self.step,
            "seed": self.recipe.seed,  # with epoch and batch, the state of all generators
            "recipe": self.recipe.to_dict(),
            "rows": self.rows,
        }
        if improved:
            save_checkpoint(self.folder / BEST, content)
        state = {
            "optimiser": self.optimiser.state_dict(),
            "seconds": self.seconds,
            "best": self.best,
        }
        save_checkpoint(self.folder / LAST, content | state | dict(self.learner.kept))

    def _restore(self, previous: Mapping[str, Any]) -> None:
        self.optimiser.load_state_dict(previous["optimiser"])
        for name in ("epoch", "step", "seconds", "best", "rows"):
            setattr(self, name, previous[name])
        log.info("%s: go on after epoch %d", self.learner.name, self.epoch)


def _with_bar(batches: Iterable[int], title: str) -> Iterator[int] | Iterable[int]:
    """Show a progress bar on a terminal, nothing in a log."""
    if not sys.stderr.isatty():
        return batches
    try:
        from tqdm import tqdm
    except ImportError:
        return batches
    return tqdm(batches, desc=title, leave=False)
