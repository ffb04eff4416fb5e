"""The ranking figure: mean ranks, how stable they are, and which are too close to call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from workflow.files import written_aside
from workflow.referee.boxplot import TASK_COLOURS, UNDATED
from workflow.referee.statistics import Ranks


def ranking_table(ranks: Mapping[str, Ranks], labels: Mapping[str, str]) -> pd.DataFrame:
    """Return what the figure shows: a row a task and method, the best first.

    `critical` is the task's critical difference of two mean ranks.
    """
    parts = []
    for task, found in ranks.items():
        table = found.table.sort_values("rank", kind="stable")
        names = [labels[method] for method in table.index]
        table = table.assign(task=task, label=names, critical=found.critical)
        parts.append(table.rename_axis("method").reset_index())
    empty = pd.DataFrame(columns=["method", "rank", "low", "high", "best", "task", "label"])
    return pd.concat(parts or [empty], ignore_index=True)


def cliques(ranks: Sequence[float], critical: float) -> list[tuple[int, int]]:
    """Return the longest runs of sorted ranks within the critical difference, two or more each."""
    runs: list[tuple[int, int]] = []
    for first, low in enumerate(ranks):
        last = max((i for i, value in enumerate(ranks) if value - low < critical), default=first)
        if last > first and not (runs and runs[-1][1] >= last):
            runs.append((first, last))
    return runs


def draw_ranking(table: pd.DataFrame, style: str, paths: Sequence[str]) -> None:
    """Draw a panel for each task, methods from the best down, and save to every path."""
    tasks = list(dict.fromkeys(table["task"]))
    count = max(len(tasks), 1)
    height = 1.2 + 0.28 * max([4, *table["task"].value_counts()])
    with plt.rc_context(fname=style):
        figure, axes = plt.subplots(
            1, count, figsize=(5.2 * count, height), squeeze=False, layout="constrained"
        )
        if not tasks:
            axes[0, 0].set_axis_off()
            axes[0, 0].text(0.5, 0.5, "nothing to rank", ha="center")
            axes = [[]]
        for ax, task in zip(axes[0], tasks, strict=True):
            _draw_panel(ax, task, table[table["task"] == task])
        for path in paths:
            with written_aside(path) as aside:
                figure.savefig(aside, metadata=UNDATED[Path(path).suffix])
        plt.close(figure)


def _draw_panel(axes: plt.Axes, task: str, table: pd.DataFrame) -> None:
    """Draw mean ranks, the spread of ranks under redrawing, and bars over what is too close."""
    rows, colour = np.arange(len(table)), TASK_COLOURS[task]
    axes.hlines(rows, table["low"], table["high"], color=colour, alpha=0.35, linewidth=6)
    axes.plot(table["rank"], rows, "o", color=colour, markeredgecolor="0.25", markersize=5)
    groups = cliques(table["rank"].to_list(), float(table["critical"].iloc[0]))
    for number, (first, last) in enumerate(groups):
        axes.plot(
            [len(table) + 0.6 + 0.25 * number] * 2, [first - 0.2, last + 0.2], color="0.25",
            linewidth=2.5, solid_capstyle="butt",
        )  # fmt: skip
    axes.set_yticks(rows, table["label"])
    axes.set_ylim(len(table) - 0.4, -0.6)
    axes.set_xlim(0.7, len(table) + 0.8 + 0.25 * len(groups))
    axes.set_xticks(range(1, len(table) + 1))
    axes.grid(axis="y", visible=False)
    axes.set(xlabel="rank by Dice (1 is the best)", title=task)
