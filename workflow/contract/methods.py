"""Methods are folders under `baselines/`: finding them, reading and checking their description."""

from __future__ import annotations

import importlib.util
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

from workflow.config import ROOT
from workflow.contract.programs import find_program, program_version
from workflow.errors import ConfigError, ToolError, nearest, raise_all
from workflow.schema import faults, load_schema

BASELINES = ROOT / "baselines"


@dataclass(frozen=True)
class Method:
    """A row of the tables: the content of `method.yaml` with the run's parameters filled in."""

    id: str
    label: str
    kind: str
    reference: str
    paper_row: str | None
    requires: dict[str, list[str]]
    shard_size: int
    deterministic: bool
    params: dict[str, Any]
    defaults: dict[str, Any]


def available_methods(baselines: Path = BASELINES) -> list[str]:
    """Return the ids of all methods: folders with a rule whose name has no leading underscore."""
    folders = (rule.parent.name for rule in baselines.glob("*/rule.smk"))
    return sorted(name for name in folders if not name.startswith("_"))


def load_methods(config: dict[str, Any], baselines: Path = BASELINES) -> dict[str, Method]:
    """Return the configured methods by id, in the order of the configuration.

    Raises
    ------
    ConfigError
        Listing every unknown method, fault of a `method.yaml` and wrong parameter.
    """
    known = available_methods(baselines)
    found = [
        f"methods[{i}]: no method '{name}'{nearest(name, known)}; available: {', '.join(known)} "
        "(folders with a rule.smk under baselines/)"
        for i, name in enumerate(config["methods"])
        if name not in known
    ]
    for key in ("method_params", "shard_size"):
        found += [
            f"{key}: no method '{name}'{nearest(name, known)}; available: {', '.join(known)}"
            for name in config[key]
            if name not in known
        ]
    methods = {}
    for name in config["methods"]:
        if name in known:
            description, wrong = _describe(name, baselines, config)
            found += wrong
            if not wrong:
                methods[name] = Method(id=name, **description)
    for label, number in Counter(method.label for method in methods.values()).items():
        if number > 1:
            own = [f"baselines/{m.id}/method.yaml" for m in methods.values() if m.label == label]
            found.append(f"label '{label}' is that of {' and '.join(own)}; expected one of each")
    raise_all(ConfigError, "The configured methods have faults:", found)
    return methods


def _describe(
    name: str, baselines: Path, config: dict[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """Return a method's description with resolved parameters, and the faults of both."""
    path = baselines / name / "method.yaml"
    where = f"baselines/{name}/method.yaml"
    if not path.is_file():
        return {}, [f"{where}: no such file; copy baselines/_template/method.yaml"]
    description = yaml.safe_load(path.read_text(encoding="utf-8"))
    wrong = faults(description, load_schema("method.schema.yaml"), where)
    if wrong:
        return {}, wrong
    parameters = description.pop("parameters")
    defaults = {key: entry["default"] for key, entry in parameters.items()}
    params = defaults | config["method_params"].get(name, {})
    schema = {"type": "object", "additionalProperties": False, "properties": parameters}
    wrong = faults(params, schema, f"method_params.{name}")
    description["shard_size"] = config["shard_size"].get(name, description["shard_size"])
    return description | {"params": params, "defaults": defaults}, wrong


def check_requirements(methods: dict[str, Method], folders: list[str]) -> None:
    """Raise one `ToolError` that lists every module and program the methods lack.

    Takes milliseconds: modules are looked for, not imported; programs are asked their version.
    """
    found = []
    for method in methods.values():
        for module in method.requires["modules"]:
            if importlib.util.find_spec(module) is None:
                found.append(
                    f"{method.id}: Python module '{module}' is not installed; run make install, "
                    "or update the environment from environment.yml"
                )
        for program in method.requires["programs"]:
            try:
                program_version(find_program(program, folders))
            except ToolError as error:
                found.append(f"{method.id}: {error}")
    raise_all(ToolError, "Tools that the configured methods need are missing:", found)


def load_register(folder: Path) -> ModuleType:
    """Import a method folder's `register.py`; other files of the folder are its siblings.

    `from .network import Network` in `register.py` finds `network.py` beside it.
    """
    path = folder / "register.py"
    name = f"register_{folder.name.replace('-', '_')}"
    spec = importlib.util.spec_from_file_location(
        name, path, submodule_search_locations=[str(folder)]
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    if not callable(getattr(module, "register", None)):
        raise ConfigError(f"{path}: no function 'register'; see docs/contract.md")
    return module
