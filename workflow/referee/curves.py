"""Figures 8 to 10 of the paper: Dice and folds over steps, the decay of a weight over epochs."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from workflow.referee.figure import TASK_COLOURS, save_figure
from workflow.referee.statistics import Comparison
from workflow.referee.tidy import BOUNDS, SCANS

# What each figure shows, with the axis' title, and what is counted.
PANELS = {
    "8": {"dice": "Dice (%), mean of the structures", "folds": "folds (voxels)"},
    "10": {"dice": "Dice (%), mean of the structures"},
}
COUNTED = {"8": "vSVF steps", "10": "affine steps"}


def compute(
    number: str, comparisons: Mapping[str, Comparison], methods: Sequence[str]
) -> pd.DataFrame:
    """Return what a figure shows: a row a task, measure and number of steps.

    `mean` is over the pairs that succeeded, `low` and `high` are its 95 % interval by patients, cut
    off where the measure ends. `methods` are those with one step, two, and so on.
    """
    rows = []
    for task, comparison in comparisons.items():
        for steps, method in enumerate(methods, start=1):
            own = comparison.pairs[comparison.pairs["method"] == method].set_index(SCANS)
            for measure in PANELS[number]:
                known = own[measure].dropna()
                limits = comparison.interval(known, BOUNDS[measure])
                rows.append((task, measure, steps, method, known.mean(), *limits))
    columns = ["task", "measure", "steps", "method", "mean", "low", "high"]
    return pd.DataFrame(rows, columns=columns)


def draw(number: str, values: pd.DataFrame, paths: Sequence[str]) -> None:
    """Draw a panel for each measure, a line for each task, and save to every path."""
    panels = PANELS[number]
    figure, axes = plt.subplots(
        1, len(panels), figsize=(4.2 * len(panels), 3.2), squeeze=False, layout="constrained"
    )
    for ax, (measure, title) in zip(axes[0], panels.items(), strict=True):
        shown = values[values["measure"] == measure]
        for task, line in shown.groupby("task", sort=False):
            colour, steps = TASK_COLOURS[task], line["steps"]
            ax.fill_between(steps, line["low"], line["high"], color=colour, alpha=0.15, linewidth=0)
            ax.plot(
                steps, line["mean"], "o-", color=colour, label=task, markersize=4, clip_on=False
            )
        ax.set(xlabel=COUNTED[number], ylabel=title, xticks=sorted(set(shown["steps"])))
        if measure == "folds":  # begins at none, also where no case has any
            ax.set_ylim(0, max(1.0, ax.get_ylim()[1]))
    axes[0, 0].legend()
    save_figure(figure, paths)


def compute_weight() -> pd.DataFrame:
    """Return the weight of affine regularisation by epoch (Eq. 13), as `avsm` computes it."""
    from avsm.losses import affine_regularisation_weight  # with torch, which no other figure needs

    epochs = np.arange(0, 30.5, 0.5)
    weights = [affine_regularisation_weight(epoch) for epoch in epochs]
    return pd.DataFrame({"epoch": epochs, "lambda_ar": weights})


def draw_weight(weights: pd.DataFrame, paths: Sequence[str]) -> None:
    """Draw the weight over epochs, and save to every path."""
    figure, axes = plt.subplots(figsize=(4.2, 3.2), layout="constrained")
    axes.plot(weights["epoch"], weights["lambda_ar"], color="0.25")
    axes.set(xlabel="epoch", ylabel=r"weight of affine regularisation, $\lambda_{ar}$")
    axes.set_ylim(bottom=0)
    save_figure(figure, paths)
