"""Methods and networks are folders with a description: finding, reading and checking them."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any, NamedTuple

from avsm.errors import UserError, nearest, raise_all
from avsm.presets import recipe_preset
from workflow.contract.folders import BASELINES, NETWORKS
from workflow.contract.programs import find_program, program_version
from workflow.schema import faults, load_schema, read_yaml, with_defaults

CODE = {"method": "register.py", "network": "train.py"}
SHOWN = {"method": "baselines", "network": "baselines/networks"}


@dataclass(frozen=True, kw_only=True)
class Described:
    """A folder's description, with what its row changes and the run's parameters filled in.

    `id` is the name in the configuration, `folder` that of the folder under `baselines/` or
    `baselines/networks/`; keys are explained in `workflow/schemas/`.
    """

    id: str
    folder: str
    label: str
    reference: str
    settings_from: str
    tuning: str
    requires: dict[str, list[str]]
    params: dict[str, Any]
    defaults: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Method(Described):
    """A row of the tables."""

    kind: str
    paper_row: str | None
    shard_size: int
    networks: tuple[str, ...]
    starts_from: str
    family: str
    affine_part: str
    cost: float | None


@dataclass(frozen=True, kw_only=True)
class Network(Described):
    """A network to train."""

    needs: tuple[str, ...]
    cost: dict[str, Any] | None


class Row(NamedTuple):
    """What a row changes of its folder's description, or of the row that it is `of`."""

    folder: str
    own: Mapping[str, Any]
    where: str


class Catalogue:
    """All rows of methods, or of networks, by id: those of the folders and of the configuration.

    A folder whose description has no `rows` is one row of its own name. What is wrong in folders
    that a run does not use is told only where a name is unknown.

    Parameters
    ----------
    word : method or network.
    root : the folder of the folders; those whose name begins with an underscore are left out.
    """

    def __init__(self, word: str, config: Mapping[str, Any], root: Path) -> None:
        self.word, self.changes = word, config[f"{word}_params"]
        self.rows: dict[str, Row] = {}
        self.faults: list[str] = []
        self._schema = load_schema(f"{word}.schema.yaml")
        self._folders: dict[str, tuple[dict[str, Any], list[str]]] = {}
        for path in sorted(root.glob(f"[!_]*/{CODE[word]}")):
            folder, shown = path.parent.name, f"{SHOWN[word]}/{path.parent.name}/{word}.yaml"
            self._folders[folder] = self._read(path.with_name(f"{word}.yaml"), shown)
            rows = self._folders[folder][0].get("rows")
            for name, own in (rows or {folder: {}}).items():
                self._add(name, Row(folder, own, f"{shown}: rows.{name}" if rows else shown))
        for name, own in config[f"{word}_rows"].items():
            self._add(name, Row("", own, f"{word}_rows.{name}"))
        rules = self._schema["properties"]["rows"]["additionalProperties"]
        for name, row in self.rows.items():
            wrong = [] if row.folder else faults(row.own, rules, row.where)
            if (of := row.own.get("of", name)) not in self.originals:
                wrong.append(self.unknown(f"{row.where}.of", of))
            folder = row.where if wrong else self.rows[of].folder
            self._folders.setdefault(folder, ({}, wrong))
            self.rows[name] = row._replace(folder=folder)
            self.faults += wrong

    def _read(self, path: Path, shown: str) -> tuple[dict[str, Any], list[str]]:
        """Return a folder's description, and its faults."""
        try:
            description = (read_yaml(path) if path.is_file() else None) or {}
        except UserError as error:
            return {}, [str(error)]
        wrong = faults(description, self._schema, shown)
        return ({} if wrong else description), wrong

    def _add(self, name: str, row: Row) -> None:
        if name in self.rows:
            self.faults.append(f"{row.where}: is in {self.rows[name].where} already; take another")
        else:
            self.rows[name] = row

    @property
    def originals(self) -> list[str]:
        """The ids of all rows but those that are `of` another."""
        return [name for name, row in self.rows.items() if "of" not in row.own]

    def changes_of(self, name: str) -> Mapping[str, Any]:
        """Return what a row changes of the one that it is `of`; nothing of others."""
        own = self.rows[name].own if name in self.rows else {}
        return own if "of" in own else {}

    def original(self, name: str) -> str:
        """Return the row that a row is `of`; most are their own."""
        return self.changes_of(name).get("of", name)

    def unknown(self, where: str, name: str) -> str:
        """Say that a name is none of the rows, and what they are."""
        return (
            f"{where}: no {self.word} '{name}'{nearest(name, self.rows)}; available: "
            f"{', '.join(self.originals)} (folders with a {CODE[self.word]} under "
            f"{SHOWN[self.word]}/, and {self.word}_rows)"
        )

    def check(self, names: Iterable[tuple[str, str]]) -> list[str]:
        """Return a fault for each name that is no row; names come with the key that they are in."""
        found = [self.unknown(where, name) for where, name in names if name not in self.rows]
        return found + [w for _, wrong in self._folders.values() for w in wrong] if found else []

    def describe(self, name: str) -> tuple[dict[str, Any], list[str]]:
        """Return a row's description with its parameters, and the faults of both.

        Parameters are the folder's defaults with the changes of the row and of the configuration;
        of a row that is `of` another, the other's with its own changes. Of parameters that are
        objects themselves, single entries are changed.
        """
        row, original = self.rows[name], self.original(name)
        description, wrong = self._folders[row.folder]
        if wrong:
            return {}, wrong
        first, declared = self.rows[original], description.get("parameters", {})
        defaults = {key: entry["default"] for key, entry in declared.items()}
        defaults = _merged(defaults, first.own.get("parameters", {}))
        params = _merged(defaults, self.changes.get(original, {}))
        described = {"label": original} | description | first.own
        if name != original:
            params = _merged(params, row.own.get("parameters", {}))
            params = _merged(params, self.changes.get(name, {}))
            described.pop("paper_row", None)  # the paper's numbers stay with the original
            described |= {"label": f"{described['label']} ({name})"} | row.own
        described = with_defaults(described, self._schema)
        for key in ("rows", "of", "parameters"):
            described.pop(key, None)
        described |= {"id": name, "folder": row.folder, "params": params, "defaults": defaults}
        rules = {"type": "object", "additionalProperties": False, "properties": declared}
        return described, faults(params, rules, self.where(name))

    def where(self, name: str) -> str:
        """Return where the parameters of a row are changed, for messages."""
        row = self.rows[name]
        return f"{row.where}.parameters" if "of" in row.own else f"{self.word}_params.{name}"


def _merged(params: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters with changes, those that are objects entry by entry."""
    both = {
        key: params[key] | value
        for key, value in changes.items()
        if isinstance(value, dict) and isinstance(params.get(key), dict)
    }
    return params | changes | both


def available(word: str, root: Path) -> list[str]:
    """Return the ids of all methods or networks that the folders make, without those of others."""
    nothing = {f"{word}_params": {}, f"{word}_rows": {}}
    return Catalogue(word, nothing, root).originals


def load_methods(
    config: Mapping[str, Any], root: Path = BASELINES, catalogue: Catalogue | None = None
) -> dict[str, Method]:
    """Return the methods of all tables by id, and what they start from, in the tables' order.

    Raises
    ------
    UserError
        Listing every unknown method, fault of a `method.yaml` and wrong parameter.
    """
    catalogue = catalogue or Catalogue("method", config, root)
    asked = [(f"methods[{i}]", name) for i, name in enumerate(config["methods"])]
    asked += [(f"table2[{i}].method", row["method"]) for i, row in enumerate(config["table2"])]
    for figure, steps in config["curves"].items():
        asked += [(f"curves.{figure}[{i}]", name) for i, name in enumerate(steps)]
    changed = [(key, name) for key in ("method_params", "shard_size") for name in config[key]]
    found = catalogue.faults + catalogue.check([*asked, *changed])
    methods: dict[str, Method] = {}
    waiting = [name for _, name in asked]
    for name in waiting:  # which grows by what others start from
        if name in catalogue.rows and name not in methods:
            method, wrong = _method(name, catalogue, config["shard_size"])
            found += wrong
            if method:
                methods[name] = method
                waiting += filter(None, [method.starts_from])
    found += _shared_labels(methods.values())
    raise_all("The configured methods have faults:", list(dict.fromkeys(found)))
    return methods


def _method(
    name: str, catalogue: Catalogue, shard_size: Mapping[str, int]
) -> tuple[Method | None, list[str]]:
    """Return a method with its networks, start and cost, or None and its faults."""
    description, wrong = catalogue.describe(name)
    if wrong:
        return None, wrong
    where = catalogue.rows[name].where
    if description["networks"] and description["kind"] != "learned":
        wrong.append(f"{where}: networks: found kind {description['kind']}, expected learned")
    others = [(f"{where}: {key}", description[key]) for key in ("starts_from", "affine_part")]
    wrong += catalogue.check([other for other in others if other[1]])
    params, defaults = description["params"], description["defaults"]
    by = description.pop("cost_grows_with")
    if by and by not in params:
        wrong.append(f"{where}: cost_grows_with: '{by}' is none of its parameters")
    elif by:
        description["cost"] *= _amount(params[by]) / _amount(defaults[by])
    description["networks"] = tuple(description["networks"])
    description["shard_size"] = shard_size.get(name, description["shard_size"])
    return (None if wrong else Method(**description)), wrong


def _amount(iterations: float | list[float]) -> float:
    """Return a number, or the sum of several, as of the iterations at some levels."""
    return sum(iterations) if isinstance(iterations, list) else iterations


def load_networks(
    config: Mapping[str, Any], methods: Iterable[Method], root: Path = NETWORKS
) -> dict[str, Network]:
    """Return all networks that methods need, those that others build on before these.

    Raises
    ------
    UserError
        Listing every unknown network, fault of a `network.yaml` and wrong parameter.
    """
    catalogue = Catalogue("network", config, root)
    found = catalogue.faults + catalogue.check(
        [("network_params", name) for name in config["network_params"]]
    )
    read: dict[str, Network] = {}
    asked = [
        (f"baselines/{method.folder}/method.yaml: networks", name)
        for method in methods
        for name in method.networks
    ]
    for where, name in asked:  # which grows by what networks need
        if name not in catalogue.rows:
            found += catalogue.check([(where, name)])
        elif name not in read:
            description, wrong = catalogue.describe(name)
            wrong = wrong or _misfit(catalogue, name, description["params"], config)
            found += wrong
            if not wrong:
                read[name] = Network(**description | {"needs": tuple(description["needs"])})
                asked += [(f"{catalogue.rows[name].where}: needs", n) for n in read[name].needs]
    found += _shared_labels(read.values())
    raise_all(
        "The networks that the configured methods need have faults:", list(dict.fromkeys(found))
    )
    order = TopologicalSorter(dict.fromkeys(read, ()))
    for name, network in read.items():
        order.add(name, *network.needs)
    try:
        return {name: read[name] for name in order.static_order()}
    except CycleError as error:
        circle = ", ".join(sorted({*error.args[1]}))
        raise UserError(f"baselines/networks: {circle} need one another in a circle") from None


def _misfit(
    catalogue: Catalogue, name: str, params: Mapping[str, Any], config: Mapping[str, Any]
) -> list[str]:
    """Return what is wrong with settings of the library's recipes, for networks that have any."""
    if not {"preset", "settings"} <= {*params}:
        return []
    where = catalogue.where(name)
    try:
        least = recipe_preset(params["preset"]).change(params["settings"]).least_side
    except UserError as error:
        return [f"{where}.settings: {error}"]
    if least <= min(size := config["preprocessing"]["size"]):
        return []
    return [
        f"preprocessing.size: found {size}, expected at least {least} voxels a side for {where}"
    ]


def _shared_labels(described: Iterable[Described]) -> list[str]:
    """Return a fault for each label that occurs twice."""
    owners: dict[str, list[str]] = {}
    for one in described:
        owners.setdefault(one.label, []).append(one.id)
    return [
        f"label '{label}' is that of {' and '.join(own)}; expected one of each"
        for label, own in owners.items()
        if len(own) > 1
    ]


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
