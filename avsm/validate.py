"""Validation: Dice of warped label maps, and folds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from avsm.device import autocast
from avsm.maps import jacobian_determinant, warp
from avsm.model import AVSM


class Score(NamedTuple):
    """Mean Dice over structures and pairs, and the percentage of voxels in which maps fold."""

    dice: float
    folds_percent: float


def dice(fixed: torch.Tensor, warped: torch.Tensor, values: Sequence[int]) -> float:
    """Give the mean Dice over structures; one that is in neither label map is left out.

    Parameters
    ----------
    fixed, warped
        Label maps of the same shape.
    values
        The structures.

    Returns
    -------
    float
        In [0, 1]; NaN if none of the structures is in either map.
    """
    found = []
    for value in values:
        a, b = fixed == value, warped == value
        total = int(a.sum()) + int(b.sum())
        if total:
            found.append(2 * int((a & b).sum()) / total)
    return sum(found) / len(found) if found else float("nan")


@torch.inference_mode()
def validate(
    model: AVSM,
    images: Sequence[tuple[torch.Tensor, torch.Tensor]],
    labels: Sequence[tuple[torch.Tensor, torch.Tensor]],
    values: Sequence[int],
    steps: int | None = None,
    precision: str = "auto",
) -> Score:
    """Register pairs and compare the fixed label map with the warped moving one.

    Parameters
    ----------
    model
        The networks.
    images
        Fixed and moving images of each pair, ``(1, 1, D, H, W)`` on the model's device.
    labels
        Their label maps, ``(D, H, W)``, warped by nearest neighbour.
    values
        The structures.
    steps
        vSVF steps; 0 scores the affine map, None takes the model's.
    precision
        See ``device.autocast``.
    """
    was_training = model.training
    model.eval()
    scores, folds = [], []
    for (fixed, moving), (fixed_label, moving_label) in zip(images, labels, strict=True):
        with autocast(fixed.device, precision):
            phi = model(fixed, moving, steps=steps).map
        moved = moving_label.to(fixed.device).float()[None, None]
        warped = warp(moved, phi, interpolation="nearest")[0, 0]
        scores.append(dice(fixed_label.to(fixed.device), warped, values))
        folds.append(float((jacobian_determinant(phi) < 0).float().mean()))
    model.train(was_training)
    return Score(float(torch.tensor(scores).nanmean()), 100 * sum(folds) / len(folds))
