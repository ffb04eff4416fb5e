"""Methods and networks are folders with a description: finding, reading and checking them."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any, NamedTuple

from avsm.errors import UserError, nearest, raise_all
from avsm.settings import recipe_preset
from workflow.contract.folders import BASELINES, NETWORKS
from workflow.schema import faults, load_schema, read_yaml, with_defaults

CODE = {"method": "register.py", "network": "train.py"}
SHOWN = {"method": "baselines", "network": "baselines/networks"}

HEADING = {
    "method": "The configured methods have faults:",
    "network": "The networks that the configured methods need have faults:",
}


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
    networks: list[str]
    starts_from: str
    family: str
    affine_part: str
    cost: float | None


@dataclass(frozen=True, kw_only=True)
class Network(Described):
    """A network to train."""

    needs: list[str]
    cost: dict[str, Any] | None


class Row(NamedTuple):
    """What a row changes of its folder's description, or of the row that it is `of`."""

    folder: str
    of: str  # its own id where it is no other one with changes
    own: Mapping[str, Any]
    where: str  # for messages
    wrong: Sequence[str] = ()  # what it has of faults itself


class Catalogue:
    """All rows of methods, or of networks, by id: those of the folders and of the configuration.

    `word` is method or network, `root` the folder of the folders; those whose name begins with an
    underscore are left out. A folder whose description has no `rows` is one row of its own name.
    What is wrong in folders that a run does not use is told only where a name is unknown.
    """

    def __init__(self, word: str, config: Mapping[str, Any], root: Path) -> None:
        self.word, self.changes = word, config[f"{word}_params"]
        self._schema = load_schema(f"{word}.schema.yaml")
        self._folders: dict[str, tuple[dict[str, Any], list[str]]] = {}
        self.rows: dict[str, Row] = {}
        self.faults: list[str] = []
        for name, row in (*self._of_folders(root), *self._of_configuration(config)):
            if name in self.rows:
                other = self.rows[name].where
                self.faults.append(f"{row.where}: is in {other} already; take another")
            else:
                self.rows[name] = row
        for name, row in self.rows.items():
            wrong = [*row.wrong, *self.unknown(f"{row.where}.of", row.of, self.originals)]
            folder = "" if wrong else self.rows[row.of].folder
            self.rows[name] = row._replace(folder=folder, wrong=wrong)
            self.faults += wrong

    def _of_folders(self, root: Path) -> Iterator[tuple[str, Row]]:
        """Read all descriptions, and give their rows."""
        for path in sorted(root.glob(f"[!_]*/{CODE[self.word]}")):
            folder, file = path.parent.name, f"{self.word}.yaml"
            shown = f"{SHOWN[self.word]}/{folder}/{file}"
            self._folders[folder] = self._read(path.with_name(file), shown)
            rows = self._folders[folder][0].get("rows")
            for name, own in (rows or {folder: {}}).items():
                where = f"{shown}: rows.{name}" if rows else shown
                yield name, Row(folder, own.get("of", name), own, where)

    def _of_configuration(self, config: Mapping[str, Any]) -> Iterator[tuple[str, Row]]:
        rules = self._schema["properties"]["rows"]["additionalProperties"]
        for name, own in config[f"{self.word}_rows"].items():
            where = f"{self.word}_rows.{name}"
            yield name, Row("", own["of"], own, where, faults(own, rules, where))

    def _read(self, path: Path, shown: str) -> tuple[dict[str, Any], list[str]]:
        """Return a folder's description, and its faults."""
        try:
            description = (read_yaml(path) if path.is_file() else None) or {}
        except UserError as error:
            return {}, [str(error)]
        wrong = faults(description, self._schema, shown)
        return ({} if wrong else description), wrong

    @property
    def originals(self) -> list[str]:
        """The ids of all rows but those that are `of` another."""
        return [name for name, row in self.rows.items() if row.of == name]

    def unknown(self, where: str, name: str, known: Iterable[str] = ()) -> list[str]:
        """Return a fault if a name that a key holds is none of the rows, and what folders lack."""
        if name in (known := list(known or self.rows)):
            return []
        message = (
            f"{where}: no {self.word} '{name}'{nearest(name, known)}; available: "
            f"{', '.join(self.originals)} (folders with a {CODE[self.word]} under "
            f"{SHOWN[self.word]}/, and {self.word}_rows)"
        )
        return [message, *(fault for _, wrong in self._folders.values() for fault in wrong)]

    def load(
        self,
        kind: type,
        asked: Iterable[tuple[str, str]],
        next_key: str,
        complete: Callable[[dict[str, Any]], list[str]],
    ) -> dict[str, Any]:
        """Return rows as `kind` by id, or raise `UserError` with all faults.

        They are those `asked` for, each with the key that holds its name, and those that these
        name under `next_key`. `complete` returns what is wrong with a description besides, and
        fills in the rest of it.
        """
        asked, found, read = [*asked], [*self.faults], {}
        for where, name in asked:  # which grows
            found += self.unknown(where, name)
            if name in read or name not in self.rows:
                continue
            description, wrong = self.describe(name)
            wrong = wrong or complete(description)
            found += wrong
            if not wrong:
                read[name] = kind(**description)
                named = description[next_key]
                named = [named] if isinstance(named, str) else named
                asked += [(f"{self.rows[name].where}: {next_key}", one) for one in named if one]
        labels: dict[str, list[str]] = {}
        for one in read.values():
            labels.setdefault(one.label, []).append(one.id)
        found += [
            f"label '{label}' is that of {' and '.join(own)}; expected one of each"
            for label, own in labels.items()
            if len(own) > 1
        ]
        raise_all(HEADING[self.word], list(dict.fromkeys(found)))
        return read

    def describe(self, name: str) -> tuple[dict[str, Any], list[str]]:
        """Return a row's description with its parameters, and the faults of both.

        Parameters are the folder's defaults with the changes of the row and of the configuration;
        of a row that is `of` another, the other's with its own changes. Of parameters that are
        objects themselves, single entries are changed.
        """
        row = self.rows[name]
        description, wrong = self._folders.get(row.folder, ({}, row.wrong))
        if wrong:
            return {}, [*wrong]
        first, declared = self.rows[row.of], description.get("parameters", {})
        defaults = {key: entry["default"] for key, entry in declared.items()}
        defaults = _merged(defaults, first.own.get("parameters", {}))
        params = _merged(defaults, self.changes.get(row.of, {}))
        described = {"label": row.of} | description | first.own
        if row is not first:
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
        return f"{self.word}_params.{name}" if row.of == name else f"{row.where}.parameters"


def _merged(params: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters with changes, those that are objects entry by entry."""
    both = {
        key: params[key] | value
        for key, value in changes.items()
        if isinstance(value, dict) and isinstance(params.get(key), dict)
    }
    return params | changes | both


def load_methods(
    config: Mapping[str, Any], root: Path = BASELINES, catalogue: Catalogue | None = None
) -> dict[str, Method]:
    """Return the methods of all tables by id, and what they start from, in the tables' order.

    A `UserError` lists every unknown method, fault of a `method.yaml` and wrong parameter.
    """
    catalogue = catalogue or Catalogue("method", config, root)
    asked = [(f"methods[{i}]", name) for i, name in enumerate(config["methods"])]
    asked += [(f"table2[{i}].method", row["method"]) for i, row in enumerate(config["table2"])]
    for figure, steps in config["curves"].items():
        asked += [(f"curves.{figure}[{i}]", name) for i, name in enumerate(steps)]
    for key in ("method_params", "shard_size"):
        catalogue.faults += [w for name in config[key] for w in catalogue.unknown(key, name)]

    def complete(description: dict[str, Any]) -> list[str]:
        name, where = description["id"], catalogue.rows[description["id"]].where
        wrong = []
        if description["networks"] and description["kind"] != "learned":
            wrong.append(f"{where}: networks: found kind {description['kind']}, expected learned")
        if part := description["affine_part"]:
            wrong += catalogue.unknown(f"{where}: affine_part", part)
        by = description.pop("cost_grows_with")
        if by and by not in description["params"]:
            wrong.append(f"{where}: cost_grows_with: '{by}' is none of its parameters")
        elif by:
            now, usual = (_amount(description[key][by]) for key in ("params", "defaults"))
            description["cost"] *= now / usual
        description["shard_size"] = config["shard_size"].get(name, description["shard_size"])
        return wrong

    return catalogue.load(Method, asked, "starts_from", complete)


def _amount(iterations: float | list[float]) -> float:
    """Return a number, or the sum of several, as of the iterations at some levels."""
    return sum(iterations) if isinstance(iterations, list) else iterations


def load_networks(
    config: Mapping[str, Any], methods: Iterable[Method], root: Path = NETWORKS
) -> dict[str, Network]:
    """Return all networks that methods need, those that others build on before these.

    A `UserError` lists every unknown network, fault of a `network.yaml` and wrong parameter.
    """
    catalogue = Catalogue("network", config, root)
    asked = [
        (f"baselines/{method.folder}/method.yaml: networks", name)
        for method in methods
        for name in method.networks
    ]
    for name in config["network_params"]:
        catalogue.faults += catalogue.unknown("network_params", name)

    def complete(description: dict[str, Any]) -> list[str]:
        """Check the settings of the library's recipes, for networks that have any."""
        params, where = description["params"], catalogue.where(description["id"])
        if not {"preset", "settings"} <= {*params}:
            return []
        try:
            least = recipe_preset(params["preset"]).change(params["settings"]).least_side
        except UserError as error:
            return [f"{where}.settings: {error}"]
        if least <= min(size := config["preprocessing"]["size"]):
            return []
        return [
            f"preprocessing.size: found {size}, expected at least {least} voxels a side for {where}"
        ]

    networks = catalogue.load(Network, asked, "needs", complete)
    order = TopologicalSorter(dict.fromkeys(networks, ()))
    for name, network in networks.items():
        order.add(name, *network.needs)
    try:
        return {name: networks[name] for name in order.static_order()}
    except CycleError as error:
        circle = ", ".join(sorted({*error.args[1]}))
        raise UserError(f"baselines/networks: {circle} need one another in a circle") from None
