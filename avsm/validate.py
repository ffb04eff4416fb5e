"""Validation: Dice of warped label maps, and folds."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from avsm.data import ImageStore, Source, read_labels
from avsm.errors import UserError
from avsm.manifest import Scan
from avsm.maps import jacobian_determinant, warp
from avsm.pairs import validation_pairs
from avsm.settings import Recipe

FindMap = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


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
    find_map: FindMap,
    images: Sequence[tuple[torch.Tensor, torch.Tensor]],
    labels: Sequence[tuple[torch.Tensor, torch.Tensor]],
    values: Sequence[int],
) -> Score:
    """Register pairs and compare the fixed label map with the warped moving one.

    Parameters
    ----------
    find_map
        Gives the map ``(1, 3, D, H, W)`` of a fixed and a moving image.
    images
        Fixed and moving images of each pair, ``(1, 1, D, H, W)``.
    labels
        Their label maps, ``(D, H, W)``, warped by nearest neighbour.
    values
        The structures.
    """
    scores, folds = [], []
    for (fixed, moving), (fixed_label, moving_label) in zip(images, labels, strict=True):
        phi = find_map(fixed, moving)
        moved = moving_label.to(fixed.device).float()[None, None]
        warped = warp(moved, phi, interpolation="nearest")[0, 0]
        scores.append(dice(fixed_label.to(fixed.device), warped, values))
        folds.append(float((jacobian_determinant(phi) < 0).float().mean()))
    return Score(float(torch.tensor(scores).nanmean()), 100 * sum(folds) / len(folds))


class Validation:
    """The validation pairs, ready to score a model.

    Parameters
    ----------
    scans
        Validation scans; those with label maps make the pairs.
    recipe
        Task, number of pairs and seed.
    source
        Of the training images, whose grid those of the scans have, and none of which they are.
    values
        The structures to score; None takes all.
    device
        Of the model.
    """

    def __init__(
        self,
        scans: Sequence[Scan],
        recipe: Recipe,
        source: Source,
        values: Sequence[int] | None,
        device: torch.device,
    ) -> None:
        pairs = validation_pairs(scans, recipe.task, recipe.validation_pairs, recipe.seed)
        used = sorted({index for pair in pairs for index in pair})
        scans = [scans[index] for index in used]
        store = ImageStore(
            scans, Path(), memory_gb=float("inf"), seen=getattr(source, "seen", None)
        )
        if store.shape != source.shape:
            raise UserError(
                f"{scans[0].image}: expected the training images' grid (z, y, x) {source.shape}, "
                f"found {store.shape}"
            )
        labels, self.values = read_labels(scans, values)
        self.pairs = [(used.index(fixed), used.index(moving)) for fixed, moving in pairs]
        self.labels = [(labels[fixed], labels[moving]) for fixed, moving in self.pairs]
        self.store, self.device = store, device
        voxels = hashlib.sha256(repr(sorted(store.seen)).encode())
        for label in labels.values():
            voxels.update(label.numpy())
        # What a training that goes on must find again.
        self.data = {"structures": [*self.values], "voxels": voxels.hexdigest()[:16]}

    def score(self, find_map: FindMap) -> Score:
        """Score what finds the map ``(1, 3, D, H, W)`` of a fixed and a moving image."""
        images = [
            tuple(self.store.read([index]).to(self.device).float() for index in pair)
            for pair in self.pairs
        ]
        return validate(find_map, images, self.labels, self.values)
