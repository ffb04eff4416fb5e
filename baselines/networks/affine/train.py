"""Training of AVSM's affine network, and, by its stage, of the momentum network."""

from pathlib import Path

import torch

from avsm.device import device_name, find_device
from avsm.model import LAST, load_checkpoint
from avsm.settings import recipe_preset
from avsm.train import train as train_avsm
from workflow.contract.training import Trained, Training


def train(
    manifest: Path, state: Path, params: dict, context: Training, stage: str = "affine"
) -> Trained:
    """Train on the pairs of the context's task; what is in `state` is gone on with."""
    torch.set_num_threads(context.threads)
    recipe = recipe_preset(params["preset"], context.task)
    recipe = recipe.change({"seed": context.seed} | params["settings"])
    recipe = recipe.continued() if context.start else recipe
    starts = [path for path in (context.start, *context.models) if path is not None]
    best = train_avsm(
        manifest, state, recipe, [stage], starts, context.labels, params["device"],
        couples=context.couples, source=context.source,
    )  # fmt: skip
    last = load_checkpoint(state / stage / LAST)
    return Trained(
        best, state / "history.csv", state / "history.png", last["step"], last["seconds"],
        device_name(find_device(params["device"])), last["precision"],
    )  # fmt: skip
