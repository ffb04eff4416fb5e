"""Training of one network: draw, loss, step, average; validate and save after each epoch."""

import copy
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from tqdm import tqdm

from avsm.data import Data, FindMap, Pairs
from avsm.device import peak_memory_mb, precision_name
from avsm.errors import UserError
from avsm.files import write_rows, written_aside
from avsm.model import BEST, LAST, save_checkpoint
from avsm.pairs import keyed_generator
from avsm.settings import Phase, Stage
from avsm.values import flat

log = logging.getLogger(__name__)
Losses = Mapping[str, Tensor]
Row = dict[str, Any]  # of the history, by column
SPIKE = 10.0  # a gradient that is so many times as large as usual says nothing: it is left out
SETTLED = 20  # batches of a phase before what is usual is known
USUAL = 100  # batches whose mean it is
UNUSABLE = 20  # batches in a row that are not finite, after which a training is given up
# Settings that a resumed run may change.
MAY_CHANGE = ("epochs", "max_minutes", "more_epochs", "more_batches", "more_rate")
LOSSES = ("total", "similarity", "regularisation", "symmetry")
COLUMNS = (
    *("stage", "epoch", "phase", "batches", "learning_rate", *LOSSES, "validation_dice"),
    *("validation_folds_percent", "seconds", "memory_mb", "precision"),
)


class Task(NamedTuple):
    """What a trainer trains, and how it is judged."""

    name: str  # in the history and in messages
    net: nn.Module  # those of its parameters that require gradients are optimised
    data: Data
    # Gives the loss ``total`` of a batch of pairs, and its terms by name, for a phase and an epoch
    # from 0. The generator is the one that drew the batch.
    losses: Callable[[Pairs, Phase, int, torch.Generator], Losses]
    find_map: FindMap  # with the network as it is, for validation
    describe: Callable[[], dict[str, Any]]  # all that is needed to use the network, as plain data


class Trainer:
    """Train one network on a device, with draws by a seed.

    After each epoch ``folder`` has ``last.pt`` to resume from and ``best.pt`` with the weights of
    the best validation Dice, both with the moving average of the weights, which is what is scored.
    ``report`` has the history, which goes on after that of the stage ``before``. A resumed run
    repeats an unbroken one on a processor, unless minutes limit it. The precision is recorded, not
    set.
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
        self.unusable = 0  # batches in a row
        self.usual = {"until": 0.0, "norm": 0.0, "batches": 0}  # gradients of the phase so far

    def run(self, previous: Mapping[str, Any] | None = None) -> list[Row]:
        """Train to the end, from the content of ``last.pt`` if given; give the whole history."""
        if previous is not None:
            self._restore(previous)
        benchmark = torch.backends.cudnn.benchmark
        try:
            # Let cuDNN choose by trial: batches have few sizes, each of them many times.
            torch.backends.cudnn.benchmark = True
            self._train(previous is None)
        finally:
            torch.backends.cudnn.benchmark = benchmark
        self._say_best()
        return self.before + self.rows

    def _train(self, anew: bool) -> None:
        self.started = time.monotonic() - self.seconds
        if anew:
            self._close_epoch({}, 0)  # before training: a start may be better than all that follows
        while self.stage.epochs and (progress := self._progress()) < 1:
            phase = self.stage.phase_at(progress)
            sums: dict[str, Tensor] = {}
            done = 0
            for pairs, generator, rate in self._batches(phase):
                self.optimiser.param_groups[0]["lr"] = rate
                self.optimiser.zero_grad(set_to_none=True)
                losses = self.task.losses(pairs, phase, self.epoch, generator)
                losses["total"].backward()
                if self._clip(losses, phase):
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

    def _batches(self, phase: Phase) -> Iterator[tuple[Pairs, torch.Generator, float]]:
        """Give the epoch's batches of pairs, each with its generator and learning rate.

        For a GPU each is drawn while the one before is computed.
        """
        count, name, source = self.stage.batches_of(phase), self.task.name, self.task.data.source

        def draw(number: int) -> tuple[Any, torch.Generator]:
            generator = keyed_generator(self.seed, name, self.epoch, number)
            return source.draw(phase, self.epoch, generator), generator

        # The bar is for a terminal: a log gets none.
        bar = {"desc": f"{name} epoch {self.epoch + 1}", "leave": False, "disable": None}
        numbers = tqdm(range(count), **bar)
        drawn = map(draw, numbers) if self.device.type == "cpu" else _ahead(draw, numbers)
        for number, (batch, generator) in enumerate(drawn):
            progress = self._progress(number / count)
            if progress >= 1 and number:
                return
            pairs = source.pairs(batch, self.device)
            yield pairs, generator, self.stage.rate_at(min(progress, 1.0), self.epoch)

    def _clip(self, losses: Losses, phase: Phase) -> bool:
        """Clip the gradient; tell whether it is finite, as the loss is, and no spike.

        A UserError ends the training when too many in a row are not finite.
        """
        limit, usual = self.stage.clip, self.usual
        norm = float(torch.nn.utils.clip_grad_norm_(self.weights, limit or math.inf))
        if not (math.isfinite(norm) and math.isfinite(float(losses["total"].detach()))):
            self.unusable += 1
            if self.unusable > (UNUSABLE if limit else 0):
                values = {name: float(loss.detach()) for name, loss in losses.items()}
                raise UserError(
                    f"{self.task.name} epoch {self.epoch + 1}, step {self.step + 1}: expected a "
                    f"finite loss and gradient, found {values}; start anew, with a rate of less "
                    f"than {self.stage.rate:g}"
                )
            return False
        self.unusable = 0
        if usual["until"] != phase.until:
            usual |= {"until": phase.until, "norm": norm, "batches": 0}
        largest = SPIKE * usual["norm"]
        spike = limit is not None and usual["batches"] >= SETTLED and norm > largest
        usual["batches"] += 1
        # Spikes count as the largest that is none: where gradients have grown, they soon are usual.
        usual["norm"] += (min(norm, largest) - usual["norm"]) / min(usual["batches"], USUAL)
        return not spike

    @torch.no_grad()
    def _update_average(self) -> None:
        # At first the average must forget the weights that it began with.
        decay = min(self.stage.average, (self.step + 1) / (self.step + 10))
        for average, weight in zip(self.average, self.weights, strict=True):
            average.lerp_(weight, 1 - decay if self.stage.average else 1.0)

    @torch.no_grad()
    def _load(self, values: Iterable[Tensor]) -> None:
        for weight, value in zip(self.weights, values, strict=True):
            weight.copy_(value)

    def _close_epoch(self, losses: Row, batches: int, phase: int | None = None) -> None:
        """Validate, report and save; phases count from 1."""
        own = [weight.detach().clone() for weight in self.weights]
        self._load(self.average)
        score = self.task.data.validation.score(self.task.find_map)
        content = copy.deepcopy(self.task.describe())
        self._load(own)
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
            "own_weights": own,
            "average": self.average,
            "optimiser": self.optimiser.state_dict(),
            "best": self.best,
            "usual": self.usual,
            "data": self.task.data.identity,
        }
        save_checkpoint(self.folder / LAST, content | state)
        write_history(self.report, self.before + self.rows)

    def _say_best(self) -> None:
        best = max(self.rows, key=lambda row: row["validation_dice"])
        start, dice, epoch = self.rows[0]["validation_dice"], best["validation_dice"], best["epoch"]
        what = f"{self.task.name}: {self.epoch} epochs; validation Dice"
        if epoch:
            log.info("%s %.4f at best, after epoch %d, and %.4f before", what, dice, epoch, start)
        elif self.epoch:
            log.warning("%s %.4f before them, and less ever since: the start is kept", what, start)

    def _restore(self, previous: Mapping[str, Any]) -> None:
        check_same(self.folder / LAST, "other data", previous["data"], self.task.data.identity)
        self._load(previous["own_weights"])
        self.average = [value.to(self.device) for value in previous["average"]]
        self.optimiser.load_state_dict(previous["optimiser"])
        for name in ("epoch", "step", "seconds", "best", "usual", "rows"):
            setattr(self, name, previous[name])
        log.info("%s: go on after epoch %d", self.task.name, self.epoch)


def check_same(path: Path, what: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise UserError that lists which settings differ, but for those of ``MAY_CHANGE``."""
    before, now = flat(before), flat(now)
    changed = [
        f"  - {name}: {before.get(name)} before, {now.get(name)} now"
        for name in sorted({*before, *now})
        if before.get(name) != now.get(name) and name.split(".")[-1] not in MAY_CHANGE
    ]
    if changed:
        raise UserError(
            f"{path}: made with {what}:\n" + "\n".join(changed) + "\n"
            "Give the same as before, choose another folder, or start anew (--no-resume)."
        )


def _ahead(draw: Callable[[int], Any], numbers: Iterable[int]) -> Iterator[Any]:
    """Draw each batch in the background while the one before is used."""
    with ThreadPoolExecutor(max_workers=1) as background:
        numbers = iter(numbers)
        coming = background.submit(draw, next(numbers))
        for number in numbers:
            before, coming = coming, background.submit(draw, number)
            yield before.result()
        yield coming.result()


def describe_row(row: Mapping[str, Any], best: float, seconds_left: float) -> str:
    """Say in one line how an epoch went."""
    losses = ", ".join(f"{name} {row[name]:.4f}" for name in LOSSES if row.get(name) is not None)
    left = f"{seconds_left / 60:.0f} min" if seconds_left >= 90 else f"{seconds_left:.0f} s"
    left = "unknown time" if math.isnan(seconds_left) else left
    return (
        f"{row['stage']} epoch {row['epoch']}: {losses or 'before training'}; validation Dice "
        f"{row['validation_dice']:.4f} (best {best:.4f}), folds "
        f"{row['validation_folds_percent']:.3f} %; rate {row['learning_rate']:.2g}, "
        f"{row['seconds']:.1f} s, {row['memory_mb']:.0f} MB, {left} left"
    )


def write_history(folder: Path, rows: Sequence[Row]) -> None:
    """Write ``history.csv`` and ``history.png`` into a folder."""
    write_rows(folder / "history.csv", COLUMNS, rows)
    try:
        with written_aside(folder / "history.png") as aside:
            draw_history(rows).savefig(aside, dpi=120)
    except OSError as error:
        log.warning("history.png was not written: %s", error)


def draw_history(rows: Sequence[Row]) -> Any:
    """Draw the losses, each phase by itself, and validation Dice over epochs, by matplotlib."""
    from matplotlib.figure import Figure  # without pyplot: no global state, no window

    figure = Figure(figsize=(8, 3.5), layout="constrained")
    loss_axes, dice_axes = figure.subplots(1, 2)
    for colour, name in enumerate(LOSSES):
        points = [(number, row) for number, row in enumerate(rows) if row.get(name)]
        phases = groupby(points, key=lambda point: (point[1]["stage"], point[1].get("phase")))
        for first, (_, own) in enumerate(phases):
            epochs, values = zip(*((number, row[name]) for number, row in own), strict=True)
            label = "_" * bool(first) + name  # one entry of the legend for all phases
            loss_axes.plot(epochs, values, ".-", color=f"C{colour}", label=label, markersize=3)
    dice_axes.plot([row["validation_dice"] for row in rows], color="black")
    stages = [row["stage"] for row in rows]
    for axes in (loss_axes, dice_axes):
        for number in range(1, len(rows)):
            if stages[number] != stages[number - 1]:
                axes.axvline(number, color="grey", linestyle=":")
    epoch = " + ".join(f"{stage} epochs" for stage in dict.fromkeys(stages))
    loss_axes.set(xlabel=epoch, ylabel="loss", yscale="log")
    dice_axes.set(xlabel=epoch, ylabel="validation Dice", ylim=(0, 1))
    if loss_axes.lines:
        loss_axes.legend(fontsize="small")
    return figure
