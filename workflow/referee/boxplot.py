"""Box-plots over methods: Figure 5 (Dice) and Figure 7 (symmetry) of the paper."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns

from workflow.referee.table1 import PAIR, pair_values

# The paper's colours, in shades that colour-blind readers can tell apart (Okabe and Ito 2008).
TASK_COLOURS = {"longitudinal": "#009E73", "cross-subject": "#E69F00"}


@dataclass(frozen=True)
class Plot:
    """Which measure a figure shows, and how its axis is labelled."""

    metric: str
    axis: str


PLOTS = {
    "5": Plot("dice", "Dice (%), mean of the structures"),
    "7": Plot("symmetry", "ln mean squared symmetry error\n(axes of length 1; lower is better)"),
}


def values_of(
    number: str, metrics: pd.DataFrame, methods: Sequence[dict], tasks: Sequence[str]
) -> pd.DataFrame:
    """Return what a figure shows: one row a directed pair, methods and tasks in table order.

    Values that are not finite are left out: the identity is exactly symmetric, ln 0.
    """
    metric = PLOTS[number].metric
    labels = {method["id"]: method["label"] for method in methods}
    pairs = pair_values(metrics)[[*PAIR, metric]]
    pairs = pairs[pairs[metric].abs() < float("inf")]
    pairs["label"] = pd.Categorical(pairs["method"].map(labels), list(labels.values()))
    pairs["task"] = pd.Categorical(pairs["task"], list(tasks))
    return pairs.sort_values(["label", "task", "fixed", "moving"])


def draw_boxplot(number: str, values: pd.DataFrame, style: str, paths: Sequence[str]) -> None:
    """Draw one box and its points for each method and task, and save to every path."""
    plot = PLOTS[number]
    shown = [label for label in values["label"].cat.categories if (values["label"] == label).any()]
    colours = [TASK_COLOURS[task] for task in values["task"].cat.categories]
    common = {
        "data": values, "x": "label", "y": plot.metric, "hue": "task", "order": shown,
        "palette": colours,
    }  # fmt: skip
    with plt.rc_context(fname=style):
        figure, axes = plt.subplots(figsize=(1.5 + 1.1 * len(shown), 3.6))
        sns.boxplot(**common, ax=axes, showfliers=False, linewidth=0.8, gap=0.15, width=0.75)
        sns.stripplot(
            **common, ax=axes, dodge=True, size=2.5, edgecolor="0.25", linewidth=0.4, alpha=0.8,
            legend=False,
        )  # fmt: skip
        axes.set(xlabel="", ylabel=plot.axis)
        axes.tick_params(axis="x", rotation=25)
        plt.setp(axes.get_xticklabels(), ha="right", rotation_mode="anchor")
        counts = values.groupby("task", observed=True).apply(
            lambda own: len(own[["fixed", "moving"]].drop_duplicates())
        )
        handles, names = axes.get_legend_handles_labels()
        axes.legend(
            handles, [f"{name} (n = {counts[name]})" for name in names], loc="lower center",
            bbox_to_anchor=(0.5, 1.0), ncols=2,
        )  # fmt: skip
        for path in paths:
            # Dates would make equal figures differ.
            date = "CreationDate" if Path(path).suffix == ".pdf" else "Creation Time"
            figure.savefig(path, metadata={date: None})
        plt.close(figure)
