"""Methods are folders under `baselines/`: finding them, reading and checking their description."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from avsm.errors import UserError, nearest, raise_all
from workflow.contract.descriptions import (
    Described,
    read_description,
    shared_labels,
    unknown_names,
)
from workflow.contract.folders import BASELINES
from workflow.contract.programs import find_program, program_version
from workflow.contract.variants import changed, folder_of, relabelled, variant_faults


@dataclass(frozen=True)
class Method:
    """A row of the tables: the content of `method.yaml` with the run's parameters filled in.

    `folder` is the folder under `baselines/`, `id` the name in the configuration: another one only
    for a variant.
    """

    id: str
    folder: str
    label: str
    kind: str
    reference: str
    paper_row: str | None
    requires: dict[str, list[str]]
    shard_size: int
    deterministic: bool
    params: dict[str, Any]
    defaults: dict[str, Any]
    networks: tuple[str, ...] = ()
    starts_from: str = ""
    family: str = ""
    affine_part: str = ""
    settings: str = ""
    tuning: str = ""
    cost: float | None = None


def available_methods(baselines: Path = BASELINES) -> list[str]:
    """Return the ids of all methods: folders with `method.yaml`, without a leading underscore."""
    folders = (description.parent.name for description in baselines.glob("*/method.yaml"))
    return sorted(name for name in folders if not name.startswith("_"))


def load_methods(config: dict[str, Any], baselines: Path = BASELINES) -> dict[str, Method]:
    """Return the methods of all tables by id, variants among them, in the configuration's order.

    Raises
    ------
    UserError
        Listing every unknown method, fault of a `method.yaml` and wrong parameter.
    """
    folders, variants = available_methods(baselines), config["variants"]["methods"]
    known = [*folders, *(name for name in variants if variants[name]["of"] in folders)]
    found = variant_faults("variants.methods", variants, folders)
    asked = {f"methods[{i}]": name for i, name in enumerate(config["methods"])}
    asked |= {f"table2[{i}].method": row["method"] for i, row in enumerate(config["table2"])}
    for figure, steps in config["curves"].items():
        asked |= {f"curves.{figure}[{i}]": name for i, name in enumerate(steps)}
    found += [
        f"{where}: no method '{name}'{nearest(name, known)}; available: {', '.join(known)} "
        "(folders with a method.yaml under baselines/, and variants.methods)"
        for where, name in asked.items()
        if name not in known
    ]
    for key in ("method_params", "shard_size"):
        found += unknown_names(key, config[key], folders if key == "method_params" else known)
    methods: dict[str, Method] = {}
    waiting = list(dict.fromkeys(asked.values()))
    for name in waiting:  # which grows by what others start from
        if name in known and name not in methods:
            description, wrong = _describe(name, baselines, config)
            found += wrong
            if not wrong:
                folder = folder_of(name, variants)
                methods[name] = Method(id=name, folder=folder, **description)
                waiting += filter(None, [methods[name].starts_from])
    found += shared_labels(methods.values())
    raise_all("The configured methods have faults:", found)
    return methods


def _describe(
    name: str, baselines: Path, config: dict[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """Return a method's description with resolved parameters, and the faults of both."""
    variants = config["variants"]["methods"]
    folder = folder_of(name, variants)
    shown = f"baselines/{folder}/method.yaml"
    where = f"variants.methods.{name}.params" if name in variants else f"method_params.{name}"
    changes = changed(name, variants, config["method_params"])
    description, wrong = read_description(
        baselines / folder / "method.yaml", shown, "method.schema.yaml", changes, where
    )
    description = relabelled(name, variants, description)
    if description:
        description["shard_size"] = config["shard_size"].get(name, description["shard_size"])
        networks = variants.get(name, {}).get("networks", description.get("networks", ()))
        description["networks"] = tuple(networks)
        if description["networks"] and description["kind"] != "learned":
            wrong.append(f"{shown}: networks: found kind {description['kind']}, expected learned")
        for key in ("starts_from", "affine_part"):
            other = description.get(key)
            if other and other not in (known := available_methods(baselines)):
                wrong.append(f"{shown}: {key}: no method '{other}'{nearest(other, known)}")
        by = description.pop("cost_grows_with", None)
        if by in description["params"] and not wrong:
            description["cost"] *= _amount(description["params"][by]) / _amount(
                description["defaults"][by]
            )
        elif by and by not in description["params"]:
            wrong.append(f"{shown}: cost_grows_with: '{by}' is none of its parameters")
    return description, wrong


def _amount(iterations: float | list[float]) -> float:
    """Return a number, or the sum of several, as of the iterations at some levels."""
    return sum(iterations) if isinstance(iterations, list) else iterations


def check_requirements(described: Iterable[Described], folders: list[str]) -> None:
    """Raise one `UserError` that lists every module and program that methods or networks lack.

    Takes milliseconds: modules are looked for, not imported; programs are asked their version.
    """
    found = []
    for one in described:
        for module in one.requires["modules"]:
            if importlib.util.find_spec(module) is None:
                found.append(
                    f"{one.id}: Python module '{module}' is not installed; run make install, "
                    "or update the environment from environment.yml"
                )
        for program in one.requires.get("programs", []):
            try:
                program_version(find_program(program, folders))
            except UserError as error:
                found.append(f"{one.id}: {error}")
    raise_all("Tools that the configured methods need are missing:", found)
