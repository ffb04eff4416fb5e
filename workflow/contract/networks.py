"""Networks are folders under `baselines/networks/`: finding them, reading their description."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from avsm.errors import UserError, nearest, raise_all
from avsm.settings import recipe_preset
from workflow.contract.descriptions import (
    read_description,
    shared_labels,
    unknown_names,
)
from workflow.contract.folders import NETWORKS
from workflow.contract.methods import Method
from workflow.contract.variants import (
    Variants,
    changed,
    folder_of,
    relabelled,
    variant_faults,
)


@dataclass(frozen=True)
class Network:
    """A network to train: the content of `network.yaml` with the run's parameters filled in.

    `folder` is the folder under `baselines/networks/`; a variant's `id` is another name.
    """

    id: str
    folder: str
    label: str
    reference: str
    needs: tuple[str, ...]
    requires: dict[str, list[str]]
    params: dict[str, Any]
    defaults: dict[str, Any]
    settings: str = ""
    tuning: str = ""
    cost: dict[str, Any] | None = None


def available_networks(folder: Path = NETWORKS) -> list[str]:
    """Return the ids of all networks: folders with a train.py, without a leading underscore."""
    names = (path.parent.name for path in folder.glob("*/train.py"))
    return sorted(name for name in names if not name.startswith("_"))


def load_networks(
    config: dict[str, Any], methods: Iterable[Method], folder: Path = NETWORKS
) -> dict[str, Network]:
    """Return all networks that methods need, those that others build on before these.

    Raises
    ------
    UserError
        Listing every unknown network, fault of a `network.yaml` and wrong parameter.
    """
    folders, variants = available_networks(folder), config["variants"]["networks"]
    known = [*folders, *(name for name in variants if variants[name]["of"] in folders)]
    found = variant_faults("variants.networks", variants, folders)
    found += unknown_names("network_params", config["network_params"], folders)
    read: dict[str, Network] = {}
    asked = [
        (name, f"baselines/{method.id}/method.yaml: networks")
        for method in methods
        for name in method.networks
    ]
    while asked:
        name, where = asked.pop(0)
        if name in read:
            continue
        if name not in known:
            available = (
                f"available: {', '.join(known)} (folders under baselines/networks/, and "
                "variants.networks)"
            )
            found.append(f"{where}: no network '{name}'{nearest(name, known)}; {available}")
            continue
        description, wrong = _describe(name, folder, config)
        found += wrong
        if not wrong:
            read[name] = Network(id=name, folder=folder_of(name, variants), **description)
            asked += [(needed, f"{_where(name, variants)}: needs") for needed in read[name].needs]
    found += shared_labels(read.values())
    raise_all("The networks that the configured methods need have faults:", found)
    return _in_order(read)


def _where(name: str, variants: Variants) -> str:
    """Return where a network is described, for messages."""
    if name in variants:
        return f"variants.networks.{name}"
    return f"baselines/networks/{name}/network.yaml"


def _describe(name: str, folder: Path, config: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return a network's description with resolved parameters, and the faults of both."""
    variants = config["variants"]["networks"]
    own = folder_of(name, variants)
    where = f"variants.networks.{name}.params" if name in variants else f"network_params.{name}"
    changes = changed(name, variants, config["network_params"])
    description, wrong = read_description(
        folder / own / "network.yaml", f"baselines/networks/{own}/network.yaml",
        "network.schema.yaml", changes, where,
    )  # fmt: skip
    params = description.get("params", {})
    if not wrong and {"preset", "settings"} <= {*params}:  # those of the library's recipes
        try:
            least = recipe_preset(params["preset"]).change(params["settings"]).least_side
            if least > min(size := config["preprocessing"]["size"]):
                wrong.append(
                    f"preprocessing.size: found {size}, expected at least {least} voxels a side "
                    f"for {where}"
                )
        except UserError as error:
            wrong.append(f"{where}.settings: {error}")
    needs = variants.get(name, {}).get("needs", description.get("needs", ()))
    return relabelled(name, variants, description) | {"needs": tuple(needs)}, wrong


def _in_order(networks: dict[str, Network]) -> dict[str, Network]:
    """Sort networks such that each comes after those that it needs."""
    ordered: dict[str, Network] = {}
    while len(ordered) < len(networks):
        ready = {
            name: network
            for name, network in networks.items()
            if name not in ordered and set(network.needs) <= set(ordered)
        }
        if not ready:
            circle = ", ".join(name for name in networks if name not in ordered)
            raise UserError(f"baselines/networks: {circle} need one another in a circle")
        ordered |= ready
    return ordered
