"""A picture of one registered pair: what went in, what came out, where it folds and overlaps."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import SimpleITK as sitk

from avsm.images import read_field, read_image
from workflow.contract.shard import field_path
from workflow.geometry import index_map, warp
from workflow.referee.figure import save_figure
from workflow.referee.metrics import warp_labels
from workflow.referee.slices import best_slice, draw_contours, draw_grid, draw_image


def draw_check(
    pair: tuple[str, str, str],
    title: str,
    images: Sequence[str],
    labels: Sequence[str],
    fields: str,
    structures: Sequence[dict],
    style: str,
    path: str,
) -> None:
    """Draw fixed, moving and warped image, deformation grid and label contours of one pair.

    The sagittal slice shown is the one with most of the fixed structures in it.

    Parameters
    ----------
    pair : task, fixed and moving scan.
    images, labels : paths of the fixed and of the moving one.
    fields : folder of the displacement fields.
    """
    with plt.rc_context(fname=style):
        figure = _check_figure(pair, title, [*images, *labels], Path(fields), structures)
        save_figure(figure, [path], dpi=110)


def _check_figure(
    pair: tuple[str, str, str],
    title: str,
    volumes: list[str],
    fields: Path,
    structures: Sequence[dict],
) -> plt.Figure:
    """Return the figure of a pair; a failed one gives a picture that says so."""
    task, fixed, moving = pair
    figure, axes = plt.subplots(1, 5, figsize=(15, 3.6), layout="constrained")
    figure.suptitle(f"{title}, {task}: {moving} (moving) to {fixed} (fixed)")
    for axis in axes:
        axis.set_axis_off()
    field = field_path(fields, fixed, moving)
    if field.exists():
        _draw_panels(axes, [read_image(path) for path in volumes], read_field(field), structures)
    else:
        axes[2].set_title(f"failed: {_reason(fields, fixed, moving)}"[:120], color="firebrick")
    return figure


def _reason(fields: Path, fixed: str, moving: str) -> str:
    """Return why a pair failed, from the record beside its shard's fields."""
    record = json.loads((fields.parent / "outcomes.json").read_text(encoding="utf-8"))
    reasons = {(e["fixed"], e["moving"]): e["reason"] for e in record["registrations"]}
    return reasons[fixed, moving]


def _draw_panels(
    axes: np.ndarray, volumes: list[sitk.Image], field: sitk.Image, structures: Sequence[dict]
) -> None:
    """Fill the five panels of a successful registration."""
    fixed, moving, fixed_label, moving_label = map(sitk.GetArrayFromImage, volumes)
    warped = sitk.GetArrayFromImage(warp(volumes[1], field))
    mapping = index_map(field, volumes[1])
    warped_label = warp_labels(moving_label, mapping)
    values = [structure["value"] for structure in structures]
    cut = best_slice(fixed_label, values)
    aspect = field.GetSpacing()[2] / field.GetSpacing()[1]

    panels = (
        ("fixed", fixed, fixed_label),
        ("moving", moving, moving_label),
        ("warped, warped labels", warped, warped_label),
        ("warped, deformation grid", warped, None),
        ("fixed, warped labels", fixed, warped_label),
    )
    for axis, (name, volume, label) in zip(axes, panels, strict=True):
        axis.set_title(name)
        draw_image(axis, volume, cut, aspect)
        if label is not None:
            draw_contours(axis, label, cut, values)
    draw_grid(axes[3], mapping, cut)
