"""The ranking figure: mean ranks, their intervals, and which differences the tests find."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.colors import ListedColormap

from workflow.referee.figure import TASK_COLOURS, save_figure
from workflow.referee.statistics import LEVEL, Ranks

ROW_INCHES = 0.28
BAR_APART = 0.25  # between bars, in ranks
COLUMNS = [
    "method", "rank", "low", "high", "block_rank", "best", "task", "label", "critical", "alike",
    "better_than",
]  # fmt: skip


def compute(
    ranks: Mapping[str, Ranks], tests: Mapping[str, pd.DataFrame], labels: Mapping[str, str]
) -> pd.DataFrame:
    """Return what the figure shows: a row a task and method, the best first.

    critical : Nemenyi's difference of mean ranks over blocks (`block_rank`), by which the methods
        are in order; NaN where there are too few blocks, and the ranks of the pairs decide.
    alike : the last method down the list that is less than that behind; empty likewise.
    better_than : methods with less Dice by a comparison whose corrected p is below 0.05.

    `ranks` and `tests` are those of each task (`statistics.rank`, `statistics.compare`).
    """
    parts = [pd.DataFrame(columns=COLUMNS)] if not ranks else []
    for task, found in ranks.items():
        by = "rank" if np.isnan(found.critical) else "block_rank"
        table = found.table.sort_values(by, kind="stable").rename_axis("method").reset_index()
        order = list(table["method"])
        last = last_alike(table[by].to_numpy(), found.critical)
        table["task"] = task
        table["label"] = table["method"].map(labels)
        table["critical"] = found.critical
        table["alike"] = ["" if place is None else order[place] for place in last]
        table["better_than"] = [" ".join(others) for others in worse_ones(order, tests[task])]
        parts.append(table)
    return pd.concat(parts, ignore_index=True)


def last_alike(ranks: np.ndarray, critical: float) -> list[int | None]:
    """Return for each of ascending mean ranks the place of the last one that is not far behind."""
    if np.isnan(critical):
        return [None] * len(ranks)
    return [int(np.flatnonzero(ranks - rank < critical)[-1]) for rank in ranks]


def worse_ones(order: Sequence[str], tests: pd.DataFrame) -> list[list[str]]:
    """Return for each method those with significantly less Dice, in the given order."""
    found = tests[tests["p_holm"] < LEVEL]
    less = {
        (row["a"], row["b"]) if row["difference"] > 0 else (row["b"], row["a"])
        for _, row in found.iterrows()
    }
    return [[other for other in order if (method, other) in less] for method in order]


def draw(table: pd.DataFrame, paths: Sequence[str]) -> None:
    """Draw a row of panels for each task, methods from the best down, and save to every path."""
    tasks = list(dict.fromkeys(table["task"]))
    side = ROW_INCHES * max([4, *table["task"].value_counts()])
    figure, axes = plt.subplots(
        max(len(tasks), 1), 2, figsize=(4.8 + side, max(len(tasks), 1) * (1.2 + side)),
        width_ratios=[3.4, side], squeeze=False, layout="constrained",
    )  # fmt: skip
    if not tasks:
        for ax in axes[0]:
            ax.set_axis_off()
        axes[0, 0].text(0.5, 0.5, "nothing to rank", ha="center")
    for (left, right), task in zip(axes, tasks, strict=False):
        own = table[table["task"] == task]
        _draw_ranks(left, task, own)
        _draw_better(right, task, own)
    save_figure(figure, paths)


def _draw_ranks(axes: plt.Axes, task: str, table: pd.DataFrame) -> None:
    """Draw mean ranks, their intervals, and bars that join ranks within the critical difference."""
    rows, colour = np.arange(len(table)), TASK_COLOURS[task]
    axes.hlines(rows, table["low"], table["high"], color=colour, alpha=0.35, linewidth=6)
    axes.plot(table["rank"], rows, "o", color=colour, markeredgecolor="0.25", markersize=5)
    if table["critical"].notna().any():
        axes.plot(table["block_rank"], rows, "|", color="0.25", markersize=13, markeredgewidth=1.6)
    places = {method: place for place, method in enumerate(table["method"])}
    ends = [places.get(method, place) for place, method in enumerate(table["alike"])]
    # A bar that lies within the one before says nothing new.
    groups = [(i, end) for i, end in enumerate(ends) if end > i and end > max(ends[:i], default=0)]
    for number, (first, last) in enumerate(groups):
        axes.plot(
            [len(table) + 0.6 + BAR_APART * number] * 2, [first - 0.2, last + 0.2], color="0.25",
            linewidth=2.5, solid_capstyle="butt",
        )  # fmt: skip
    numbered = [f"{label}  {place}" for place, label in enumerate(table["label"], start=1)]
    axes.set_yticks(rows, numbered)
    axes.set_ylim(len(table) - 0.4, -0.6)
    axes.set_xlim(0.7, len(table) + 0.8 + BAR_APART * len(groups))
    axes.set_xticks(range(1, len(table) + 1))
    axes.grid(axis="y", visible=False)
    critical = table["critical"].iloc[0]
    known = "not known, too few couples or methods" if np.isnan(critical) else f"{critical:.1f}"
    axes.set(
        xlabel=f"rank by Dice (1 is the best)\ncritical difference of strokes: {known}", title=task
    )


def _draw_better(axes: plt.Axes, task: str, table: pd.DataFrame) -> None:
    """Fill the cells where the row's method is significantly better than the column's."""
    count = len(table)
    edges = np.arange(count + 1) - 0.5
    better = [[other in row.split() for other in table["method"]] for row in table["better_than"]]
    colours = ListedColormap(["white", TASK_COLOURS[task]])
    axes.pcolormesh(edges, edges, np.array(better, float), cmap=colours, vmin=0, vmax=1)
    axes.hlines(edges, -0.5, count - 0.5, color="0.85", linewidth=0.5)
    axes.vlines(edges, -0.5, count - 0.5, color="0.85", linewidth=0.5)
    axes.plot([-0.5, count - 0.5], [-0.5, count - 0.5], color="0.7", linewidth=0.8)
    axes.set_xticks(range(count), range(1, count + 1))
    axes.set_yticks([])
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.set(
        xlim=(-0.5, count - 0.5), ylim=(count - 0.4, -0.6), xlabel="better than (p < 0.05, Holm)"
    )
