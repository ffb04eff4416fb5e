"""Training of the networks of the library `avsm`; see `avsm.py` for their use."""

from __future__ import annotations

from pathlib import Path

import torch

from avsm.device import device_name, find_device
from avsm.model import LAST, load_checkpoint
from avsm.settings import recipe_preset
from avsm.train import train
from workflow.contract.training import Trained, Training


def train_stage(
    stage: str, manifest: Path, state: Path, params: dict, context: Training
) -> Trained:
    """Train the affine or the momentum network, the latter from the affine network's model."""
    torch.set_num_threads(context.threads)
    recipe = recipe_preset(params["preset"], context.task)
    recipe = recipe.change({"seed": context.seed} | params["settings"])
    recipe = recipe.continued() if context.start else recipe
    device = find_device(params["device"])
    starts = [path for path in (context.start, *context.models) if path is not None]
    best = train(
        manifest, state, recipe, [stage], starts, context.labels, params["device"],
        couples=context.couples, source=context.source,
    )  # fmt: skip
    last = load_checkpoint(state / stage / LAST)
    return Trained(
        best, state / "history.csv", state / "history.png", last["step"], last["seconds"],
        device_name(device), last["precision"],
    )  # fmt: skip
