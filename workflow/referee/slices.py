"""Slices of volumes, contours of label maps and deformation grids, drawn into axes."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np

from workflow.referee.metrics import determinant, jacobian

GRID_STEP = 6  # voxels between the lines of the deformation grid
CONTOURS = ("#56B4E9", "#E69F00", "#CC79A7", "#009E73")


def best_slice(labels: np.ndarray, values: Sequence[int]) -> int:
    """Return the sagittal slice (x) of ``(z, y, x)`` with most of the structures in it."""
    return int(np.isin(labels, values).sum(axis=(0, 1)).argmax())


def draw_image(axes: plt.Axes, volume: np.ndarray, cut: int, aspect: float) -> None:
    """Draw a sagittal slice of an image in [0, 1], superior upwards."""
    axes.imshow(volume[:, :, cut], cmap="gray", vmin=0, vmax=1, origin="lower", aspect=aspect)


def draw_contours(axes: plt.Axes, labels: np.ndarray, cut: int, values: Sequence[int]) -> None:
    """Draw the outline of each structure in a slice."""
    for value, colour in zip(values, CONTOURS * len(values), strict=False):
        mask = labels[:, :, cut] == value
        if mask.any():
            axes.contour(mask, levels=[0.5], colors=[colour], linewidths=0.9)


def draw_labels(
    axes: plt.Axes, labels: np.ndarray, cut: int, values: Sequence[int], aspect: float
) -> None:
    """Draw the structures of a slice as areas on black."""
    plane = labels[:, :, cut]
    picture = np.zeros((*plane.shape, 3))
    for value, colour in zip(values, CONTOURS * len(values), strict=False):
        picture[plane == value] = plt.matplotlib.colors.to_rgb(colour)
    axes.imshow(picture, origin="lower", aspect=aspect, interpolation="nearest")


def draw_grid(axes: plt.Axes, mapping: np.ndarray, cut: int) -> None:
    """Draw the lines of equal moving y and z over the slice, and mark folded voxels in red.

    `mapping` goes from fixed to moving index, ``(3, z, y, x)``, components (x, y, z).
    """
    _, y, z = mapping[:, :, :, cut]
    for component in (y, z):
        levels = np.arange(np.floor(component.min()), component.max(), GRID_STEP)
        axes.contour(component, levels=levels, colors="yellow", linewidths=0.5, linestyles="solid")
    folded = determinant(jacobian(mapping))[:, :, cut] < 0
    axes.contourf(folded, levels=[0.5, 1.5], colors=["red"], alpha=0.7)
