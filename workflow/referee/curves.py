"""Figures 8 to 10 of the paper: Dice and folds over steps, the decay of a weight over epochs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import pandas as pd

from workflow.referee.boxplot import TASK_COLOURS
from workflow.referee.figure import save_figure
from workflow.referee.statistics import interval_of
from workflow.referee.tidy import BOUNDS, SCANS, pair_values

# What each figure shows, with the axis' title, and what is counted.
PANELS = {
    "8": {"dice": "Dice (%), mean of the structures", "folds": "folds (voxels)"},
    "10": {"dice": "Dice (%), mean of the structures"},
}
COUNTED = {"8": "vSVF steps", "10": "affine steps"}


def curve_values(
    number: str,
    metrics: pd.DataFrame,
    methods: Sequence[str],
    tasks: Sequence[str],
    patients: Mapping[str, str],
    seed: int,
) -> pd.DataFrame:
    """Return what a figure shows: a row a task, measure and number of steps.

    `mean` is over the pairs that succeeded, `low` and `high` are its 95 % interval by patients, cut
    off where the measure ends.

    Parameters
    ----------
    methods : with one step, two, and so on.
    patients : of each scan.
    """
    pairs = pair_values(metrics)
    rows = []
    for task in tasks:
        for steps, method in enumerate(methods, start=1):
            own = pairs[(pairs["method"] == method) & (pairs["task"] == task)]
            for measure in PANELS[number]:
                known = own.set_index(SCANS)[measure].dropna()
                limits = interval_of(known, patients, seed, BOUNDS[measure])
                rows.append((task, measure, steps, method, known.mean(), *limits))
    columns = ["task", "measure", "steps", "method", "mean", "low", "high"]
    return pd.DataFrame(rows, columns=columns)


def draw_weight(weights: pd.DataFrame, style: str, paths: Sequence[str]) -> None:
    """Draw a weight (`lambda_ar`) over epochs (`epoch`), and save to every path."""
    with plt.rc_context(fname=style):
        figure, axes = plt.subplots(figsize=(4.2, 3.2), layout="constrained")
        axes.plot(weights["epoch"], weights["lambda_ar"], color="0.25")
        axes.set(xlabel="epoch", ylabel=r"weight of affine regularisation, $\lambda_{ar}$")
        axes.set_ylim(bottom=0)
        save_figure(figure, paths)


def draw_curves(number: str, values: pd.DataFrame, style: str, paths: Sequence[str]) -> None:
    """Draw a panel for each measure, a line for each task, and save to every path."""
    panels = PANELS[number]
    with plt.rc_context(fname=style):
        figure, axes = plt.subplots(
            1, len(panels), figsize=(4.2 * len(panels), 3.2), squeeze=False, layout="constrained"
        )
        for ax, (measure, title) in zip(axes[0], panels.items(), strict=True):
            shown = values[values["measure"] == measure]
            for task, line in shown.groupby("task", sort=False):
                colour = TASK_COLOURS[task]
                ax.fill_between(
                    line["steps"], line["low"], line["high"], color=colour, alpha=0.15, linewidth=0
                )
                ax.plot(
                    line["steps"], line["mean"], "o-", color=colour, label=task, markersize=4,
                    clip_on=False,
                )  # fmt: skip
            ax.set(xlabel=COUNTED[number], ylabel=title, xticks=sorted(set(shown["steps"])))
            if measure == "folds":  # begins at none, also where no case has any
                ax.set_ylim(0, max(1.0, ax.get_ylim()[1]))
        axes[0, 0].legend()
        save_figure(figure, paths)
