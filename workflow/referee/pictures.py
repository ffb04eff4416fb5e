"""Slices of registrations: Figures 4, 6, 12, 13 and 14 of the paper, and the visual checks."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import SimpleITK as sitk
from matplotlib.colors import to_rgb

from avsm.fields import warp_image
from avsm.images import read_field, read_image
from workflow.contract.shard import field_path
from workflow.geometry import index_map
from workflow.referee.figure import save_figure
from workflow.referee.metrics import determinant, jacobian, warp_labels
from workflow.referee.tidy import SCANS, read_json

GRID_STEP = 6  # voxels between the lines of the deformation grid
CONTOURS = ("#56B4E9", "#E69F00", "#CC79A7", "#009E73")
# Panels of a visual check: an image, and what is drawn over it.
PANELS = {
    "fixed": ("fixed", "fixed labels"),
    "moving": ("moving", "moving labels"),
    "warped, warped labels": ("warped", "warped labels"),
    "warped, deformation grid": ("warped", "grid"),
    "fixed, warped labels": ("fixed", "warped labels"),
}


class Slice(NamedTuple):
    """The sagittal slice (z, y) of a registered pair with most of the fixed structures in it."""

    planes: dict[str, np.ndarray]  # of images in [0, 1] and of label maps, by name
    grid: np.ndarray  # moving index (y, z), (2, z, y)
    folded: np.ndarray  # where the map folds
    aspect: float  # of a voxel, z to y


def draw_examples(
    columns: Sequence[dict],
    rows: Mapping[str, str],
    structures: Sequence[dict],
    paths: Sequence[str],
) -> None:
    """Draw a column for each registration, and save to every path; failed ones say so.

    Columns have a `title`, `fixed` and `moving` (names of scans), `images` and `labels` (paths of
    the fixed and of the moving one), `fields` (folder) and `affine` (folder of the affine part's
    fields, or None); `rows` are those of `workflow.examples.ROWS` to show, with their titles.
    """
    values = [structure["value"] for structure in structures]
    figure, axes = plt.subplots(
        len(rows), len(columns), figsize=(2.1 * len(columns) + 0.3, 2.0 * len(rows)),
        squeeze=False, layout="constrained",
    )  # fmt: skip
    for own, column in zip(axes.T, columns, strict=True):
        own[0].set_title(column["title"], fontsize="small")
        for axis in own:
            axis.set(xticks=[], yticks=[])
            axis.grid(visible=False)
        shown = _read_slice(column, values)
        if shown is None:
            own[0].text(0.5, 0.5, "failed", ha="center", color="firebrick")
            continue
        for row, axis in zip(rows, own, strict=True):
            if row.endswith("labels"):
                _draw_labels(axis, shown, row, values)
            elif row == "grid":
                _draw_image(axis, shown, "warped")
                _draw_grid(axis, shown)
            elif row in shown.planes:
                _draw_image(axis, shown, row)
    for title, axis in zip(rows.values(), axes[:, 0], strict=True):
        axis.set_ylabel(title)
    save_figure(figure, paths, dpi=110)


def example_scores(columns: Sequence[dict], metrics: pd.DataFrame) -> pd.DataFrame:
    """Return all scores of the registrations that a figure shows, each with its column's `title`.

    `columns` are as in `draw_examples`, with `method`; `metrics` is a tidy table.
    """
    found = []
    for column in columns:
        of_pair = metrics[["method", *SCANS]] == [column[key] for key in ("method", *SCANS)]
        shown = metrics[of_pair.all(axis=1)].copy()
        shown.insert(0, "title", column["title"].replace("\n", ", "))
        found.append(shown)
    return pd.concat(found)


def draw_check(pair: dict, structures: Sequence[dict], path: str) -> None:
    """Draw fixed, moving and warped image, deformation grid and label contours of one pair.

    A failed one gives a picture that says why. `pair` is as a column in `draw_examples`, with
    `outcomes`, the path of its shard's record.
    """
    values = [structure["value"] for structure in structures]
    figure, axes = plt.subplots(1, len(PANELS), figsize=(15, 3.6), layout="constrained")
    figure.suptitle(pair["title"])
    for axis in axes:
        axis.set_axis_off()
    shown = _read_slice(pair, values)
    if shown is None:
        entries = read_json(pair["outcomes"])["registrations"]
        reasons = {(entry["fixed"], entry["moving"]): entry["reason"] for entry in entries}
        reason = reasons[pair["fixed"], pair["moving"]]
        axes[2].set_title(f"failed: {reason}"[:120], color="firebrick")
    else:
        for axis, (title, (image, over)) in zip(axes, PANELS.items(), strict=True):
            axis.set_title(title)
            _draw_image(axis, shown, image)
            if over == "grid":
                _draw_grid(axis, shown)
            else:
                _draw_contours(axis, shown, over, values)
    save_figure(figure, [path], dpi=110)


def _read_slice(pair: dict, values: Sequence[int]) -> Slice | None:
    """Return the slice of a pair to show; None if its registration failed."""
    scans = pair["fixed"], pair["moving"]
    path = field_path(Path(pair["fields"]), *scans)
    if not path.exists():
        return None
    images, labels = ([read_image(name) for name in pair[kind]] for kind in ("images", "labels"))
    field = read_field(path)
    mapping = index_map(field, images[1])
    fixed_labels, moving_labels = map(sitk.GetArrayFromImage, labels)
    found = dict(zip(("fixed", "moving"), map(sitk.GetArrayFromImage, images), strict=True))
    found["warped"] = sitk.GetArrayFromImage(warp_image(images[1], field, outside=0.0))
    if pair.get("affine") and (affine := field_path(Path(pair["affine"]), *scans)).exists():
        warped = warp_image(images[1], read_field(affine), outside=0.0)
        found["affine"] = sitk.GetArrayFromImage(warped)
    found |= {"fixed labels": fixed_labels, "moving labels": moving_labels}
    found["warped labels"] = warp_labels(moving_labels, mapping)
    cut = int(np.isin(fixed_labels, values).sum(axis=(0, 1)).argmax())
    folded = determinant(jacobian(mapping))[:, :, cut] < 0
    spacing = field.GetSpacing()
    planes = {name: volume[:, :, cut] for name, volume in found.items()}
    return Slice(planes, mapping[1:, :, :, cut], folded, spacing[2] / spacing[1])


def _draw_image(axes: plt.Axes, shown: Slice, name: str) -> None:
    """Draw an image, superior upwards."""
    plane = shown.planes[name]
    axes.imshow(plane, cmap="gray", vmin=0, vmax=1, origin="lower", aspect=shown.aspect)


def _draw_contours(axes: plt.Axes, shown: Slice, name: str, values: Sequence[int]) -> None:
    """Draw the outline of each structure."""
    for value, colour in zip(values, CONTOURS * len(values), strict=False):
        mask = shown.planes[name] == value
        if mask.any():
            axes.contour(mask, levels=[0.5], colors=[colour], linewidths=0.9)


def _draw_labels(axes: plt.Axes, shown: Slice, name: str, values: Sequence[int]) -> None:
    """Draw the structures as areas on black."""
    plane = shown.planes[name]
    picture = np.zeros((*plane.shape, 3))
    for value, colour in zip(values, CONTOURS * len(values), strict=False):
        picture[plane == value] = to_rgb(colour)
    axes.imshow(picture, origin="lower", aspect=shown.aspect, interpolation="nearest")


def _draw_grid(axes: plt.Axes, shown: Slice) -> None:
    """Draw the lines of equal moving y and z, and mark folded voxels in red."""
    for component in shown.grid:
        levels = np.arange(np.floor(component.min()), component.max(), GRID_STEP)
        axes.contour(component, levels=levels, colors="yellow", linewidths=0.5, linestyles="solid")
    axes.contourf(shown.folded, levels=[0.5, 1.5], colors=["red"], alpha=0.7)
