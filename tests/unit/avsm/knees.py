"""A tiny cohort for training tests: warped copies of one blob, with label maps."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch

from avsm.maps import affine_map, resize, warp
from avsm.settings import (
    AffineNetConfig,
    AVSMConfig,
    MomentumNetConfig,
    Phase,
    Recipe,
    Stage,
    recipe_preset,
)

SHAPE = (20, 18, 16)
TINY = AVSMConfig(
    affine=AffineNetConfig(scale=0.5, norm=True),
    momentum=MomentumNetConfig(width=2),
    affine_steps=2,
    steps=2,
    precision="float32",  # the same on every machine
)


def blob(shift: float, stretch: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Make an image in [0, 1] and its label map, both float32 and uint8 ``(D, H, W)``."""
    generator = torch.Generator().manual_seed(seed)
    image = resize(torch.rand(1, 1, 5, 5, 5, generator=generator), SHAPE)
    axes = [torch.linspace(-1, 1, n) for n in SHAPE]
    z, y, x = torch.meshgrid(*axes, indexing="ij")
    inside = (z**2 + 2 * y**2 + x**2 < 0.3).float()[None, None]
    image = 0.4 * image + 0.6 * inside
    phi = affine_map(stretch * torch.eye(3)[None], torch.tensor([[shift, 0, -shift]]), SHAPE)
    return warp(image, phi)[0, 0].numpy(), warp(inside, phi, "nearest")[0, 0].numpy().astype("u1")


def write_cohort(folder: Path) -> Path:
    """Write four training and two validation subjects, two visits each; return the manifest."""
    rows = []
    for subject in range(6):
        for visit in range(2):
            shift = 0.2 * (subject % 3 - 1) + 0.03 * visit + 1e-3 * (subject // 3)  # no copies
            image, label = blob(shift, 1.1)
            names = {}
            for kind, array in (("image", image), ("label", label)):
                names[kind] = f"s{subject}_v{visit}_{kind}.nii"
                volume = sitk.GetImageFromArray(array)
                volume.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))  # RAS+
                sitk.WriteImage(volume, str(folder / names[kind]))
            split = "train" if subject < 4 else "validation"
            rows.append({"subject": f"s{subject}", "visit": f"v{visit}", "split": split} | names)
    path = folder / "manifest.csv"
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_couples(manifest: Path, couples: list[tuple[str, str, str]]) -> Path:
    """Write a list of couples beside a manifest: task, and scans such as s0_v1; return its path."""
    path = manifest.with_name("couples.csv")
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(("task", "fixed", "moving"))
        writer.writerows((task, f"{a}_image.nii", f"{b}_image.nii") for task, a, b in couples)
    return path


def tiny_recipe(epochs: int = 2, batches: int = 2, task: str = "cross-subject") -> Recipe:
    """Make a recipe with all that ``small`` does, which takes seconds.

    Epochs of images of half the resolution have four times as many batches, of two pairs each.
    """
    half = Phase(until=0.5, pairs=2, scale=0.5)
    common = {"epochs": epochs, "batches": batches, "rate": 2e-3, "clip": 1.0, "warmup": 0.1}
    common["average"] = 0.8
    return dataclasses.replace(
        recipe_preset("small", task),
        model=TINY,
        affine=Stage(phases=(half, Phase(steps=2, pairs=2, scale=0.5)), **common),
        momentum=Stage(phases=(half, Phase(steps=2)), **common),
        validation_pairs=4,
    )
