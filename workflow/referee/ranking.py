"""The ranking figure: mean ranks, their intervals, and which are too close to call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from workflow.referee.boxplot import TASK_COLOURS
from workflow.referee.figure import save_figure
from workflow.referee.statistics import LEVEL, Ranks


def ranking_table(
    ranks: Mapping[str, Ranks], comparisons: Mapping[str, pd.DataFrame], labels: Mapping[str, str]
) -> pd.DataFrame:
    """Return what the figure shows: a row a task and method, the best first.

    `alike` names the last method down the list of which none from here on differs significantly.

    Parameters
    ----------
    ranks, comparisons : of each task, see `statistics.rank` and `statistics.compare`.
    labels : of the methods.
    """
    parts = []
    for task, found in ranks.items():
        table = found.table.sort_values("rank", kind="stable")
        names = [labels[method] for method in table.index]
        last = last_alike(list(table.index), comparisons[task])
        table = table.assign(task=task, label=names, alike=[names[i] for i in last])
        parts.append(table.rename_axis("method").reset_index())
    empty = pd.DataFrame(
        columns=["method", "rank", "low", "high", "best", "task", "label", "alike"]
    )
    return pd.concat(parts or [empty], ignore_index=True)


def last_alike(order: Sequence[str], comparisons: pd.DataFrame) -> list[int]:
    """Return for each method the place of the last one such that none in between differs.

    Two methods differ if the corrected p of their comparison is below 0.05; without one they may
    be alike.
    """
    significant = comparisons[comparisons["p_holm"] < LEVEL]
    different = {frozenset(pair) for pair in zip(significant["a"], significant["b"], strict=True)}
    last = []
    for first in range(len(order)):
        end = first
        while end + 1 < len(order) and not any(
            frozenset((order[end + 1], order[i])) in different for i in range(first, end + 1)
        ):
            end += 1
        last.append(end)
    return last


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
        save_figure(figure, paths)


def _draw_panel(axes: plt.Axes, task: str, table: pd.DataFrame) -> None:
    """Draw mean ranks, their intervals, and bars over methods that do not differ significantly."""
    rows, colour = np.arange(len(table)), TASK_COLOURS[task]
    axes.hlines(rows, table["low"], table["high"], color=colour, alpha=0.35, linewidth=6)
    axes.plot(table["rank"], rows, "o", color=colour, markeredgecolor="0.25", markersize=5)
    places = {label: place for place, label in enumerate(table["label"])}
    ends = [places[label] for label in table["alike"]]
    # A bar that lies within the one before says nothing new.
    groups = [(i, end) for i, end in enumerate(ends) if end > i and end > max(ends[:i], default=0)]
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
