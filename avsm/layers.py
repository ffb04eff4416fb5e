"""What a network is made of, read from the network itself: its layers as they run (Fig. 11)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn


class Layer(NamedTuple):
    """One layer without layers inside.

    Attributes
    ----------
    name
        Its path in the network, such as ``down2.same.0``.
    kind
        Its type with kernel and stride, such as ``Conv3d 3, stride 2``.
    shape
        Of what it gives, batch left out: channels, then voxels or nothing.
    parameters
        Numbers that are learnt.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    parameters: int


def list_layers(network: nn.Module, run: Callable[[], object]) -> list[Layer]:
    """List a network's layers in the order in which they first run.

    Operations that are no modules (most activations, sums, up-sampling of maps) have no layer.

    Parameters
    ----------
    network
        The network, or a model that holds it.
    run
        Runs the network once.

    Returns
    -------
    list of Layer
        One for each module that has no other inside and was run. Parameters that a network has
        outside of such modules come last, without a shape.
    """
    found: dict[str, Layer] = {}
    handles = [
        module.register_forward_hook(_note(name, found))
        for name, module in network.named_modules()
        if not any(module.children())
    ]
    try:
        with torch.no_grad():
            run()
    finally:
        for handle in handles:
            handle.remove()
    counted = {id(p) for name in found for p in network.get_submodule(name).parameters()}
    rest = [
        Layer(name, "parameter", (), parameter.numel())
        for name, parameter in network.named_parameters()
        if id(parameter) not in counted
    ]
    return [*found.values(), *rest]


def _note(name: str, found: dict[str, Layer]) -> Callable[..., None]:
    def hook(module: nn.Module, inputs: object, output: torch.Tensor) -> None:
        if name not in found:  # weights that several steps share are one layer
            count = sum(p.numel() for p in module.parameters())
            found[name] = Layer(name, _kind(module), tuple(output.shape[1:]), count)

    return hook


def _kind(module: nn.Module) -> str:
    """Name a layer, with its kernel and a stride other than 1 where it has them."""
    name = type(module).__name__
    if not hasattr(module, "kernel_size"):
        return name
    kernel, stride = (
        value[0] if isinstance(value, tuple) else value
        for value in (module.kernel_size, module.stride)
    )
    return f"{name} {kernel}" + (f", stride {stride}" if stride != 1 else "")
