"""Examples of registrations, as the paper's Figures 4, 6, 12, 13 and 14 show them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import SimpleITK as sitk

from avsm.images import read_field, read_image
from workflow.contract.shard import field_path
from workflow.geometry import index_map, warp
from workflow.referee.figure import save_figure
from workflow.referee.metrics import warp_labels
from workflow.referee.slices import best_slice, draw_grid, draw_image, draw_labels
from workflow.referee.tidy import SCANS

# Rows of a figure from above; the paper's order.
ROWS = {
    "moving": "moving (source)",
    "fixed": "fixed (target)",
    "warped": "warped",
    "grid": "warped, deformation grid",
    "affine": "warped, affine part",
    "moving labels": "moving labels",
    "fixed labels": "fixed labels",
    "warped labels": "warped labels",
}


def draw_examples(
    columns: Sequence[dict],
    rows: Sequence[str],
    structures: Sequence[dict],
    style: str,
    paths: Sequence[str],
) -> None:
    """Draw a column for each registration, and save to every path.

    Parameters
    ----------
    columns : each with `title`, `fixed` and `moving` (names of scans), `images` and `labels` (paths
        of the fixed and of the moving one), `fields` (folder) and `affine` (folder of the affine
        part's fields, or None).
    rows : of `ROWS`.
    """
    values = [structure["value"] for structure in structures]
    with plt.rc_context(fname=style):
        figure, axes = plt.subplots(
            len(rows), len(columns), figsize=(2.1 * len(columns) + 0.3, 2.0 * len(rows)),
            squeeze=False, layout="constrained",
        )  # fmt: skip
        for place, column in enumerate(columns):
            axes[0, place].set_title(column["title"], fontsize="small")
            _draw_column(axes[:, place], column, rows, values)
        for row, axis in zip(rows, axes[:, 0], strict=True):
            axis.set_ylabel(ROWS[row])
        save_figure(figure, paths, dpi=110)


def example_scores(columns: Sequence[dict], scores: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return all scores of the registrations that a figure shows, each with its column's `title`.

    Parameters
    ----------
    columns : as in `draw_examples`, with `scores`, the path of the scores.
    scores : tidy tables by path.
    """
    found = []
    for column in columns:
        table = scores[column["scores"]]
        shown = (table[SCANS] == [column["fixed"], column["moving"]]).all(axis=1)
        title = column["title"].replace("\n", ", ")
        found.append(table[shown].assign(title=title))
    whole = pd.concat(found)
    return whole[["title", *whole.columns.drop("title")]]


def _draw_column(
    axes: np.ndarray, column: dict, rows: Sequence[str], values: Sequence[int]
) -> None:
    """Draw one registration; a failed one leaves its panels empty."""
    for axis in axes:
        axis.set(xticks=[], yticks=[])
        axis.grid(visible=False)
    path = field_path(Path(column["fields"]), column["fixed"], column["moving"])
    if not path.exists():
        axes[0].text(0.5, 0.5, "failed", ha="center", color="firebrick")
        return
    images, labels = ([read_image(name) for name in column[kind]] for kind in ("images", "labels"))
    field = read_field(path)
    mapping = index_map(field, images[1])
    fixed, moving, warped = map(sitk.GetArrayFromImage, (*images, warp(images[1], field)))
    fixed_label, moving_label = map(sitk.GetArrayFromImage, labels)
    cut = best_slice(fixed_label, values)
    aspect = field.GetSpacing()[2] / field.GetSpacing()[1]
    pictures = {"moving": moving, "fixed": fixed, "warped": warped, "grid": warped}
    areas = {
        "moving labels": moving_label,
        "fixed labels": fixed_label,
        "warped labels": warp_labels(moving_label, mapping),
    }
    if column["affine"]:
        affine = field_path(Path(column["affine"]), column["fixed"], column["moving"])
        if affine.exists():
            pictures["affine"] = sitk.GetArrayFromImage(warp(images[1], read_field(affine)))
    for row, axis in zip(rows, axes, strict=True):
        if row in areas:
            draw_labels(axis, areas[row], cut, values, aspect)
        elif row in pictures:
            draw_image(axis, pictures[row], cut, aspect)
        if row == "grid":
            draw_grid(axis, mapping, cut)
