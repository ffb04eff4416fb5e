"""Training of one network: draw, loss, step, average; validate and save after each epoch."""

from __future__ import annotations

import copy
import logging
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from avsm.augment import keyed_generator
from avsm.device import peak_memory_mb, precision_name
from avsm.errors import UserError
from avsm.history import Row, describe_row, write_history
from avsm.model import BEST, LAST, save_checkpoint
from avsm.settings import Phase, Stage
from avsm.validate import Score

log = logging.getLogger(__name__)
Losses = Mapping[str, torch.Tensor]
SPIKE = 10.0  # a gradient that is so many times as large as usual says nothing: it is left out
SETTLED = 20  # batches of a phase before what is usual is known
USUAL = 100  # batches whose mean it is
UNUSABLE = 20  # batches in a row that are not finite, after which a training is given up


@dataclass(frozen=True)
class Task:
    """What a trainer trains, and how it is judged.

    Attributes
    ----------
    name
        In the history and in messages.
    net
        The network; those of its parameters that require gradients are optimised.
    draw
        Draws a batch by a generator, for a phase and an epoch from 0; may run in another thread.
    losses
        Gives the loss ``total`` of such a batch, and its terms by name.
    score
        Gives the score on the validation pairs, with the network as it is.
    describe
        Gives all that is needed to use the network, with its weights, as plain data.
    kept
        What only a resumed run needs besides.
    """

    name: str
    net: nn.Module
    draw: Callable[[Phase, int, torch.Generator], Any]
    losses: Callable[[Any, Phase, int], Losses]
    score: Callable[[], Score]
    describe: Callable[[], dict[str, Any]]
    kept: Mapping[str, Any] = field(default_factory=dict)


class Trainer:
    """Train one network.

    After each epoch the folder has ``last.pt`` to resume from and ``best.pt`` with the weights of
    the best validation Dice. Both hold the moving average of the weights, which is what is scored.
    On a processor a resumed run reaches exactly the losses of an unbroken one, unless minutes limit
    it.

    Parameters
    ----------
    task
        What is trained.
    stage
        Epochs, phases and learning rate.
    seed
        Of all draws.
    folder
        Where the checkpoints go.
    report
        Where ``history.csv`` and ``history.png`` go.
    device
        Of the network.
    precision
        Of the network's convolutions, see ``device.autocast``; recorded, not set.
    before
        The history of the stage before.
    """

    def __init__(
        self,
        task: Task,
        stage: Stage,
        seed: int,
        folder: Path,
        report: Path,
        device: torch.device,
        precision: str = "auto",
        before: Sequence[Row] = (),
    ) -> None:
        self.task, self.stage, self.seed = task, stage, seed
        self.folder, self.report, self.device = folder, report, device
        self.precision = precision_name(device, precision)
        self.before, self.rows = list(before), []
        self.weights = [p for p in task.net.parameters() if p.requires_grad]
        self.average = [p.detach().clone() for p in self.weights]
        self.optimiser = torch.optim.Adam(self.weights, lr=stage.rate)
        self.epoch, self.step, self.seconds, self.best = 0, 0, 0.0, -1.0
        self.usual = {"until": 0.0, "norm": 0.0, "batches": 0}  # gradients of the phase so far

    def run(self, previous: Mapping[str, Any] | None = None) -> list[Row]:
        """Train to the end of the stage; return the history of this stage and of that before.

        Parameters
        ----------
        previous
            The content of ``last.pt`` to go on from.
        """
        if previous is not None:
            self._restore(previous)
        with _fast_convolutions(self.device):
            self._train(previous is None)
        self._say_best()
        return self.before + self.rows

    def _train(self, anew: bool) -> None:
        self.started = time.monotonic() - self.seconds
        if anew:
            self._close_epoch({}, 0)  # before training: a start may be better than all that follows
        unusable = 0
        while self.stage.epochs and (progress := self._progress()) < 1:
            phase = self.stage.phase_at(progress)
            sums: dict[str, torch.Tensor] = {}
            done = 0
            for batch, rate in self._batches(phase):
                for group in self.optimiser.param_groups:
                    group["lr"] = rate
                self.optimiser.zero_grad(set_to_none=True)
                losses = self.task.losses(batch, phase, self.epoch)
                losses["total"].backward()
                finite, spike = self._clip(losses, phase)
                unusable = 0 if finite else unusable + 1
                if unusable > (UNUSABLE if self.stage.clip else 0):
                    self._give_up(losses)
                if finite and not spike:
                    self.optimiser.step()
                    self._update_average()
                    for name, loss in losses.items():
                        sums[name] = sums.get(name, 0.0) + loss.detach()
                    done += 1
                else:  # weights may have gone astray, and the next batch would be left out too
                    self._load(self.average)
                self.step += 1
            self.epoch += 1
            means = {name: float(total) / max(done, 1) for name, total in sums.items()}
            self._close_epoch(means, done, self.stage.phases.index(phase) + 1)

    def _progress(self, part: float = 0.0) -> float:
        """Give the part of the stage that is done, with a part of the epoch under way."""
        if self.stage.max_minutes is not None:
            return (time.monotonic() - self.started) / (60 * self.stage.max_minutes)
        return (self.epoch + part) / self.stage.epochs

    def _batches(self, phase: Phase) -> Iterator[tuple[Any, float]]:
        """Give the epoch's batches, each with its learning rate.

        For a GPU each is drawn while the one before is computed; a processor would draw in the
        time that it takes from the network.
        """
        count, name = self.stage.batches_of(phase), self.task.name

        def draw(number: int) -> Any:
            generator = keyed_generator(self.seed, name, self.epoch, number)
            return self.task.draw(phase, self.epoch, generator)

        numbers = _with_bar(range(count), f"{name} epoch {self.epoch + 1}")
        drawn = map(draw, numbers) if self.device.type == "cpu" else _ahead(draw, numbers)
        for number, batch in enumerate(drawn):
            progress = self._progress(number / count)
            if progress >= 1 and number:
                return
            yield batch, self.stage.rate_at(min(progress, 1.0), self.epoch)

    def _clip(self, losses: Losses, phase: Phase) -> tuple[bool, bool]:
        """Clip the gradient; tell whether it and the loss are finite, and whether it is a spike."""
        limit, usual = self.stage.clip, self.usual
        norm = float(torch.nn.utils.clip_grad_norm_(self.weights, limit or math.inf))
        if not (math.isfinite(norm) and bool(torch.isfinite(losses["total"].detach()))):
            return False, False
        if usual["until"] != phase.until:
            usual |= {"until": phase.until, "norm": norm, "batches": 0}
        largest = SPIKE * usual["norm"]
        spike = limit is not None and usual["batches"] >= SETTLED and norm > largest
        usual["batches"] += 1
        # Spikes count as the largest that is none: where gradients have grown, they soon are usual.
        usual["norm"] += (min(norm, largest) - usual["norm"]) / min(usual["batches"], USUAL)
        return True, spike

    def _give_up(self, losses: Losses) -> None:
        values = {name: float(loss.detach()) for name, loss in losses.items()}
        raise UserError(
            f"{self.task.name} epoch {self.epoch + 1}, step {self.step + 1}: expected a finite "
            f"loss and gradient, found {values}; start anew, with a rate of less than "
            f"{self.stage.rate:g}"
        )

    @torch.no_grad()
    def _update_average(self) -> None:
        # At first the average must forget the weights that it began with.
        decay = min(self.stage.average, (self.step + 1) / (self.step + 10))
        for average, weight in zip(self.average, self.weights, strict=True):
            average.lerp_(weight, 1 - decay if self.stage.average else 1.0)

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """Put the averaged weights into the network, and the others back."""
        own = [weight.detach().clone() for weight in self.weights]
        self._load(self.average)
        try:
            yield
        finally:
            self._load(own)

    @torch.no_grad()
    def _load(self, values: Iterable[torch.Tensor]) -> None:
        for weight, value in zip(self.weights, values, strict=True):
            weight.copy_(value)

    def _close_epoch(
        self, losses: dict[str, float], batches: int, phase: int | None = None
    ) -> None:
        """Validate, report and save; phases count from 1."""
        with self._averaged():
            score = self.task.score()
            content = copy.deepcopy(self.task.describe())
        improved = score.dice > self.best
        self.best = max(self.best, score.dice)
        now = time.monotonic() - self.started
        self.rows.append(
            {
                "stage": self.task.name,
                "epoch": self.epoch,
                "phase": phase,
                "batches": batches,
                "learning_rate": self.optimiser.param_groups[0]["lr"],
                **losses,
                "validation_dice": score.dice,
                "validation_folds_percent": score.folds_percent,
                "seconds": now - self.seconds,
                "memory_mb": peak_memory_mb(self.device),
                "precision": self.precision,
            }
        )
        self.seconds = now
        progress = min(self._progress(), 1.0) if self.stage.epochs else 1.0
        left = now * (1 - progress) / progress if progress else math.nan
        log.info(describe_row(self.rows[-1], self.best, left))
        content |= {
            "stage": self.task.name,
            "epoch": self.epoch,
            "step": self.step,
            "seconds": self.seconds,
            "seed": self.seed,  # with epoch and batch, the state of all generators
            "precision": self.precision,
            "rows": self.rows,
        }
        if improved:
            save_checkpoint(self.folder / BEST, content)
        state = {
            "own_weights": [weight.detach() for weight in self.weights],
            "average": self.average,
            "optimiser": self.optimiser.state_dict(),
            "best": self.best,
            "usual": self.usual,
        }
        save_checkpoint(self.folder / LAST, content | state | dict(self.task.kept))
        write_history(self.report, self.before + self.rows)

    def _say_best(self) -> None:
        best = max(self.rows, key=lambda row: row["validation_dice"])
        what = f"{self.task.name}: {self.epoch} epochs; validation Dice"
        start, dice = self.rows[0]["validation_dice"], best["validation_dice"]
        if best["epoch"]:
            log.info(
                "%s %.4f at best, after epoch %d, and %.4f before", what, dice, best["epoch"], start
            )
        elif self.epoch:
            log.warning("%s %.4f before them, and less ever since: the start is kept", what, start)

    def _restore(self, previous: Mapping[str, Any]) -> None:
        self._load(previous["own_weights"])
        self.average = [value.to(self.device) for value in previous["average"]]
        self.optimiser.load_state_dict(previous["optimiser"])
        for name in ("epoch", "step", "seconds", "best", "usual", "rows"):
            setattr(self, name, previous[name])
        log.info("%s: go on after epoch %d", self.task.name, self.epoch)


@contextmanager
def _fast_convolutions(device: torch.device) -> Iterator[None]:
    """Let cuDNN choose by trial: batches have few sizes, each of them many times."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = before or device.type == "cuda"
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def _ahead(draw: Callable[[int], Any], numbers: Iterable[int]) -> Iterator[Any]:
    """Draw each batch in the background while the one before is used."""
    with ThreadPoolExecutor(max_workers=1) as background:
        before = None
        for number in numbers:
            coming = background.submit(draw, number)
            if before is not None:
                yield before.result()
            before = coming
        if before is not None:
            yield before.result()


def _with_bar(numbers: Iterable[int], title: str) -> Iterable[int]:
    """Show a progress bar on a terminal, nothing in a log."""
    if not sys.stderr.isatty():
        return numbers
    try:
        from tqdm import tqdm
    except ImportError:
        return numbers
    return tqdm(numbers, desc=title, leave=False)
