"""On a GPU (CUDA or Apple's): the same values as on the processor, and training that resumes."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch

from avsm.device import find_device
from avsm.model import AVSM
from avsm.train import train
from tests.unit.avsm.knees import SHAPE, TINY, tiny_recipe, write_cohort

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(find_device().type == "cpu", reason="this machine has no GPU"),
]


def test_a_registration_is_that_of_the_processor() -> None:
    torch.manual_seed(0)
    model = AVSM(TINY).eval()
    torch.nn.init.normal_(model.affine_net.last.bias, std=0.05)
    torch.nn.init.normal_(model.momentum_net.last[-1].weight, std=0.01)
    fixed, moving = torch.rand(2, 1, 1, *SHAPE)
    device = find_device()
    with torch.inference_mode():
        expected = model(fixed, moving).map
        found = model.to(device)(fixed.to(device), moving.to(device)).map.cpu()
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)


def first_losses(folder: Path) -> dict[str, float]:
    with (folder / "history.csv").open(newline="") as stream:
        row = list(csv.DictReader(stream))[1]
    return {name: float(row[name]) for name in ("total", "similarity", "regularisation")}


def test_training_has_the_losses_of_the_processor(tmp_path: Path) -> None:
    """Batches are read in the background there, and their order must not change."""
    cohort = write_cohort(tmp_path)
    recipe = tiny_recipe(epochs=1, batches=1)
    for device in ("cpu", find_device().type):
        train(cohort, tmp_path / device, recipe, ["momentum"], device=device)
    expected, found = first_losses(tmp_path / "cpu"), first_losses(tmp_path / find_device().type)
    assert found == pytest.approx(expected, rel=0.02)
    longer = recipe.change({"momentum.epochs": 2})
    train(cohort, tmp_path / find_device().type, longer, ["momentum"])
    with (tmp_path / find_device().type / "history.csv").open(newline="") as stream:
        assert len(list(csv.DictReader(stream))) == 3
