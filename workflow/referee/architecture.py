"""Figure 11 of the paper as a table: the layers of AVSM's networks, their shapes and parameters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

import pandas as pd

from workflow.referee.render import MISSING

COLUMNS = ["network", "layer", "kind", "shape", "parameters"]


class Layer(Protocol):
    """What `avsm.layers` gives."""

    name: str
    kind: str
    shape: tuple[int, ...]
    parameters: int


def layer_table(layers: Iterable[Layer], networks: Mapping[str, str]) -> pd.DataFrame:
    """Return a row for each layer of some networks, in their order.

    Parameters
    ----------
    networks : title of each network, by the first part of its layers' names; others are left out.
    """
    rows = []
    for layer in layers:
        network, _, name = layer.name.partition(".")
        shape = "x".join(map(str, layer.shape))
        if network in networks:
            rows.append((networks[network], name, layer.kind, shape, layer.parameters))
    return pd.DataFrame(rows, columns=COLUMNS)


def formatted(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return a table of text for each network."""
    texts = {}
    for network, own in table.groupby("network", sort=False):
        text = pd.DataFrame(
            {
                "Layer": own["layer"],
                "Kind": own["kind"],
                "Output": own["shape"].replace("", MISSING),
                "Parameters": own["parameters"].map("{:,}".format),
            }
        )
        texts[f"{network}: {own['parameters'].sum():,} parameters"] = text
    return texts


def notes(shape: Iterable[int], affine_steps: int, steps: int) -> list[str]:
    """Return the lines under the table."""
    grid = "x".join(map(str, shape))
    return [
        f"Output: channels and voxels for images of {grid} (z, y, x). Sums, most activations "
        "and the vSVF unit are no layers and have no parameters.",
        f"All {affine_steps} affine steps share one network's weights, and all {steps} vSVF steps "
        "the other's.",
    ]
