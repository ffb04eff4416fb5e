"""Label maps: their values, and whether they are those of their images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from avsm.grid import describe_grid, same_grid

VALUES = range(256)
SHOWN = 5
FEW = 16  # no image has so few values
LIKE_LABELS = "found few values, all whole numbers from 0 to 255, as of a label map"


def label_faults(
    label: sitk.Image,
    path: str | Path,
    image: sitk.Image | None = None,
    image_path: str | Path = "",
) -> list[str]:
    """Say why a label map cannot be used, by itself or with its image; nothing: it can.

    It has whole numbers from 0 to 255, lies on the image's grid, and the image is none itself.
    Both have RAS+ axes.
    """
    values = np.unique(sitk.GetArrayViewFromImage(label))
    wrong, faults = values[~np.isin(values, VALUES) & np.isfinite(values)], []
    if wrong.size:
        shown = ", ".join(f"{value:.10g}" for value in wrong[:SHOWN].tolist())
        more = f" and {wrong.size - SHOWN} more" if wrong.size > SHOWN else ""
        faults.append(
            f"{path}: found the label values {shown}{more}, expected whole numbers from 0 to 255"
        )
    if image is None:
        return faults
    if not same_grid(image, label):
        faults.append(
            f"{path}: not on the grid of its image: found {describe_grid(label)}, expected "
            f"{describe_grid(image)}"
        )
    if has_few_values(image, len(VALUES) if wrong.size else len(values)):
        faults.append(
            f"{image_path}: found few values, all whole numbers from 0 to 255, and {len(values)} "
            f"in {path}: image and label map seem exchanged, or both are label maps"
        )
    return faults


def has_few_values(image: sitk.Image, most: int = FEW) -> bool:
    """Tell whether an image has at most so many values, all of which a label map may have."""
    found: set[float] = set()
    for plane in sitk.GetArrayViewFromImage(image):
        found.update(np.unique(plane).tolist())
        if len(found) > most:
            return False
    return found <= {*VALUES}
