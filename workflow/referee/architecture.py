"""Figure 11 of the paper as a table: the layers of AVSM's networks, their shapes and parameters."""

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from functools import partial
from typing import NamedTuple

import pandas as pd
import torch
from torch import nn

from workflow.referee.render import MISSING

NETWORKS = {"affine_net": "Affine network", "momentum_net": "Momentum network"}
COLUMNS = ["network", "layer", "kind", "shape", "parameters"]


class Layer(NamedTuple):
    """One layer without layers inside."""

    name: str  # its path in the network, such as down2.same.0
    kind: str  # its type with kernel and stride, such as Conv3d 3, stride 2
    shape: tuple[int, ...]  # of what it gives, batch left out: channels, then voxels or nothing
    parameters: int  # numbers that are learnt


def list_layers(network: nn.Module, run: Callable[[], object]) -> list[Layer]:
    """List a network's layers in the order in which they first run, when `run` runs it once.

    A layer is a module that has no other inside. Operations that are no modules (most activations,
    sums, up-sampling of maps) have none. Parameters that a network has outside of such modules come
    last, without a shape.
    """
    found: dict[str, Layer] = {}

    def note(name: str, module: nn.Module, _: object, given: dict, output: torch.Tensor) -> None:
        if name not in found:  # weights that several steps share are one layer
            count = sum(p.numel() for p in module.parameters())
            kind = _kind(module, given.get("stride"))
            found[name] = Layer(name, kind, tuple(output.shape[1:]), count)

    with ExitStack() as hooks, torch.no_grad():
        for name, module in network.named_modules():
            if not any(module.children()):
                hook = module.register_forward_hook(partial(note, name), with_kwargs=True)
                hooks.callback(hook.remove)
        run()
    counted = {id(p) for name in found for p in network.get_submodule(name).parameters()}
    rest = [
        Layer(name, "parameter", (), parameter.numel())
        for name, parameter in network.named_parameters()
        if id(parameter) not in counted
    ]
    return [*found.values(), *rest]


def _kind(module: nn.Module, given: int | None) -> str:
    """Name a layer, with its kernel and a stride other than 1 where it has them."""
    name = type(module).__name__
    if not hasattr(module, "kernel_size"):
        return name
    kernel, stride = (
        value[0] if isinstance(value, tuple) else value
        for value in (module.kernel_size, given or module.stride)
    )
    return f"{name} {kernel}" + (f", stride {stride}" if stride != 1 else "")


def compute(layers: Iterable[Layer]) -> pd.DataFrame:
    """Return a row for each layer of AVSM's networks, in their order; others are left out."""
    rows = []
    for layer in layers:
        network, _, name = layer.name.partition(".")
        shape = "x".join(map(str, layer.shape))
        if network in NETWORKS:
            rows.append((NETWORKS[network], name, layer.kind, shape, layer.parameters))
    return pd.DataFrame(rows, columns=COLUMNS)


def formatted(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return a table of text for each network."""
    texts = {}
    for network, own in table.groupby("network", sort=False):
        text = own[["layer", "kind", "shape", "parameters"]].replace({"shape": {"": MISSING}})
        text.columns = ["Layer", "Kind", "Output", "Parameters"]
        heading = f"{network}: {own['parameters'].sum():,} parameters"
        texts[heading] = text.assign(Parameters=own["parameters"].map("{:,}".format))
    return texts


def notes(shape: Iterable[int], affine_steps: int, steps: int) -> list[str]:
    """Return the lines under the table."""
    grid = "x".join(map(str, shape))
    return [
        f"Output: channels and voxels for images of {grid} (z, y, x). Sums, most activations, "
        "the affine network's poolings and norms, and the vSVF unit are no layers and have no "
        "parameters.",
        f"All {affine_steps} affine steps share one network's weights, and all {steps} vSVF steps "
        "the other's.",
    ]
