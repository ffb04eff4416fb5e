"""Box-plots over methods: Figure 5 (Dice) and Figure 7 (symmetry) of the paper."""

from collections.abc import Sequence
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns

from workflow.referee.figure import TASK_COLOURS, save_figure
from workflow.referee.tidy import PAIR, pair_values


class Plot(NamedTuple):
    """Which measure a figure shows, and how."""

    metric: str
    axis: str  # its label
    controls: bool  # whether these belong in it
    floor: float = -np.inf  # boxes below are named, not drawn, so that the rest can be told apart


PLOTS = {
    "5": Plot("dice", "Dice (%), mean of the structures", True),
    # Doing nothing is perfectly symmetric; its ln 0, or of rounding errors, would dwarf the rest.
    # Below the floor is what is symmetric by construction, but for rounding.
    "7": Plot(
        "symmetry", "ln mean squared symmetry error\n(axes of length 1; low is good)", False, -16
    ),
}  # fmt: skip


def compute(
    number: str, metrics: pd.DataFrame, methods: Sequence[dict], tasks: Sequence[str]
) -> pd.DataFrame:
    """Return what a figure shows: one row a directed pair, methods and tasks in table order.

    Failed pairs and values that are not finite are left out.
    """
    plot = PLOTS[number]
    labels = {m["id"]: m["label"] for m in methods if plot.controls or m["kind"] != "control"}
    pairs = pair_values(metrics)[[*PAIR, plot.metric]]
    pairs = pairs[np.isfinite(pairs[plot.metric]) & pairs["method"].isin(labels)].copy()
    pairs["label"] = pd.Categorical(pairs["method"].map(labels), list(labels.values()))
    pairs["task"] = pd.Categorical(pairs["task"], list(tasks))
    return pairs.sort_values(["label", "task", "fixed", "moving"])


def draw(number: str, values: pd.DataFrame, paths: Sequence[str]) -> None:
    """Draw one box and its points for each method and task, and save to every path.

    Without any value the figure says so.
    """
    shown = [label for label in values["label"].cat.categories if (values["label"] == label).any()]
    figure, axes = plt.subplots(figsize=(1.5 + 1.1 * max(len(shown), 3), 3.6))
    if shown:
        _draw(axes, PLOTS[number], values, shown)
    else:
        axes.set_axis_off()
        axes.text(0.5, 0.5, "no finite values", ha="center", transform=axes.transAxes)
    save_figure(figure, paths)


def _draw(axes: plt.Axes, plot: Plot, values: pd.DataFrame, shown: Sequence[str]) -> None:
    """Draw the boxes, the points and the legend."""
    common = {
        "data": values, "x": "label", "y": plot.metric, "hue": "task", "order": shown,
        "palette": [TASK_COLOURS[task] for task in values["task"].cat.categories], "ax": axes,
    }  # fmt: skip
    sns.boxplot(**common, showfliers=False, linewidth=0.8, gap=0.15, width=0.75)
    # Seaborn scatters points by this generator; equal figures are to be equal files.
    np.random.seed(0)  # noqa: NPY002
    sns.stripplot(
        **common, dodge=True, size=2.5, edgecolor="0.25", linewidth=0.4, alpha=0.8, legend=False
    )
    if values[plot.metric].min() < plot.floor:
        _name_what_is_below(axes, plot, values, shown)
    axes.set(xlabel="", ylabel=plot.axis)
    axes.tick_params(axis="x", rotation=25)
    plt.setp(axes.get_xticklabels(), ha="right", rotation_mode="anchor")
    counts = values.drop_duplicates(["task", "fixed", "moving"])["task"].value_counts()
    handles, names = axes.get_legend_handles_labels()
    axes.legend(
        handles, [f"{name} (n = {counts[name]})" for name in names], loc="lower center",
        bbox_to_anchor=(0.5, 1.0), ncols=2,
    )  # fmt: skip


def _name_what_is_below(
    axes: plt.Axes, plot: Plot, values: pd.DataFrame, shown: Sequence[str]
) -> None:
    """End the axis at the floor, and write there the medians that lie below."""
    axes.set_ylim(bottom=plot.floor)
    medians = values.groupby(["task", "label"], observed=True)[plot.metric].median()
    tasks = values["task"].cat.categories
    for (task, label), median in medians[medians < plot.floor].items():
        side = (tasks.get_loc(task) + 0.5) / len(tasks) - 0.5
        axes.annotate(
            f"{median:.0f}\n▼", (shown.index(label) + 0.75 * side, plot.floor), ha="center",
            va="bottom", color=TASK_COLOURS[task],
        )  # fmt: skip
