"""What a training run reports: a line per epoch, a table, a curve."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from avsm.files import write_rows, written_aside

if TYPE_CHECKING:
    from matplotlib.figure import Figure

log = logging.getLogger(__name__)
LOSSES = ("total", "similarity", "regularisation", "symmetry")
COLUMNS = (
    "stage",
    "epoch",
    "phase",
    "batches",
    "learning_rate",
    *LOSSES,
    "validation_dice",
    "validation_folds_percent",
    "seconds",
    "memory_mb",
    "precision",
)
Row = dict[str, Any]


def describe_row(row: Mapping[str, Any], best: float, seconds_left: float) -> str:
    """Say in one line how an epoch went."""
    losses = ", ".join(f"{name} {row[name]:.4f}" for name in LOSSES if row.get(name) is not None)
    return (
        f"{row['stage']} epoch {row['epoch']}: {losses or 'before training'}; validation Dice "
        f"{row['validation_dice']:.4f} (best {best:.4f}), folds "
        f"{row['validation_folds_percent']:.3f} %; rate {row['learning_rate']:.2g}, "
        f"{row['seconds']:.1f} s, {row['memory_mb']:.0f} MB, {_duration(seconds_left)} left"
    )


def _duration(seconds: float) -> str:
    if math.isnan(seconds):
        return "unknown time"
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"


def write_history(folder: Path, rows: Sequence[Row]) -> None:
    """Write ``history.csv`` and ``history.png`` into a folder."""
    write_rows(folder / "history.csv", COLUMNS, rows)
    try:
        _plot(folder / "history.png", rows)
    except OSError as error:
        log.warning("history.png was not written: %s", error)


def _plot(path: Path, rows: Sequence[Row]) -> None:
    with written_aside(path) as aside:
        draw_history(rows).savefig(aside, dpi=120)


def draw_history(rows: Sequence[Row]) -> Figure:
    """Draw losses and validation Dice over the epochs.

    Losses of two phases, of which one has more steps to sum over, say, are not joined by a line.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.5), layout="constrained")
    FigureCanvasAgg(figure)  # no global state, no window
    loss_axes, dice_axes = figure.subplots(1, 2)
    for place, name in enumerate(LOSSES):
        points = [
            (number, row[name], (row["stage"], row.get("phase")))
            for number, row in enumerate(rows)
            if row.get(name)
        ]
        for first, (_, own) in enumerate(groupby(points, key=lambda point: point[2])):
            epochs, values, _ = zip(*own, strict=True)
            label = "_" * bool(first) + name  # one entry of the legend for all phases
            loss_axes.plot(epochs, values, ".-", color=f"C{place}", label=label, markersize=3)
    dice_axes.plot([row["validation_dice"] for row in rows], color="black")
    for number, row in enumerate(rows):
        if number and row["stage"] != rows[number - 1]["stage"]:
            for axes in (loss_axes, dice_axes):
                axes.axvline(number, color="grey", linestyle=":")
    epoch = " + ".join(dict.fromkeys(f"{row['stage']} epochs" for row in rows))
    loss_axes.set(xlabel=epoch, ylabel="loss", yscale="log")
    dice_axes.set(xlabel=epoch, ylabel="validation Dice", ylim=(0, 1))
    if loss_axes.lines:
        loss_axes.legend(fontsize="small")
    return figure
