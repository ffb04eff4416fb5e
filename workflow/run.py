"""A run: the checked configuration with its scans, couples, methods, networks, and its files.

Everything here is cheap, because Snakemake builds it each time it parses the workflow.
"""

import importlib.util
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from avsm.errors import UserError, raise_all
from workflow.config import TASKS, check_config
from workflow.contract.descriptions import (
    Catalogue,
    Method,
    Network,
    load_methods,
    load_networks,
)
from workflow.contract.folders import BASELINES
from workflow.contract.programs import find_program, program_version
from workflow.data.cohort import load_cohort
from workflow.data.pairs import (
    Couple,
    both_directions,
    check_training,
    read_pair_list,
    select_couples,
    shards,
    training_couples,
    training_scans,
)
from workflow.data.scans import Scan
from workflow.models import check_fit, published

BOTH = "both"  # tasks, of one network


@dataclass(frozen=True)
class Run:
    """All that rules need to know; build it with `load_run`."""

    config: dict[str, Any]
    scans: dict[str, Scan]
    couples: list[Couple]
    methods: dict[str, Method]
    networks: dict[str, Network]

    @property
    def folder(self) -> str:
        """Where all outputs of the run lie."""
        return f"results/{self.config['run']}"

    @property
    def tasks(self) -> list[str]:
        """Tasks that have pairs, in the order of the tables."""
        return [task for task in TASKS if any(couple[0] == task for couple in self.couples)]

    @property
    def tested(self) -> list[str]:
        """Names of all scans that occur in a test pair."""
        return sorted({name for couple in self.couples for name in couple[1:]})

    @cached_property
    def listed(self) -> dict[str, list[Couple]]:
        """The couples to train on by task; a task without any takes all."""
        if self.phantoms:
            return {task: [] for task in self.tasks}
        return training_couples(self.scans, self.config, self.tasks) if self.networks else {}

    @cached_property
    def trained(self) -> list[str]:
        """Names of the scans that networks are trained or validated on; none without networks."""
        return self.trained_on(self.tasks) if self.networks else []

    def trained_on(self, tasks: Iterable[str]) -> list[str]:
        """Return the names of the scans that networks of some tasks are trained or validated on."""
        chosen = training_scans(self.scans, {task: self.listed[task] for task in tasks})
        splits = {"validation"} if self.phantoms else {"train", "validation"}
        return [scan.name for scan in chosen if scan.split in splits]

    @cached_property
    def validated(self) -> set[str]:
        """Names of the scans whose Dice chooses a network's weights."""
        return {name for name in self.trained if self.scans[name].split == "validation"}

    @property
    def used(self) -> list[str]:
        """Names of all scans that are read: tested, trained or validated on."""
        return sorted({*self.tested, *self.trained})

    @property
    def trainings(self) -> list[tuple[str, str]]:
        """Every network with the pairs it is trained for: a task, or both."""
        kinds = list(dict.fromkeys(self.trained_for(task) for task in self.tasks))
        return [(network, pairs) for network in self.networks for pairs in kinds]

    @property
    def main(self) -> dict[str, Method]:
        """Methods of Tables 1 and 3; others are in Table 2 or the curves alone."""
        return {name: self.methods[name] for name in self.config["methods"]}

    @property
    def shown(self) -> dict[str, Method]:
        """Methods of all tables and curves; others are only what these start from."""
        names = [*self.config["methods"], *self.table2.values()]
        names += [name for steps in self.config["curves"].values() for name in steps]
        return {name: self.methods[name] for name in dict.fromkeys(names)}

    @property
    def paper(self) -> bool:
        """Whether results are compared with the paper's: of other anatomies they cannot be."""
        asked = self.config["paper"]
        return self.config["cohort"]["source"] == "phantom" if asked is None else asked

    @property
    def table2(self) -> dict[str, str]:
        """The method in each row of Table 2."""
        return {row["row"]: row["method"] for row in self.config["table2"]}

    def trainings_of(self, methods: Iterable[str]) -> list[tuple[str, str]]:
        """Return the trainings that some methods need, directly or for another network."""
        waiting = [name for method in methods for name in self.methods[method].networks]
        needed: set[str] = set()
        while waiting:
            name = waiting.pop()
            needed.add(name)
            waiting += self.networks[name].needs
        return [(name, pairs) for name, pairs in self.trainings if name in needed]

    def trained_for(self, task: str) -> str:
        """Return the pairs that the networks of a task are trained for: the task, or both."""
        together = self.config["training"]["pairs"] == "together"
        return BOTH if together and len(self.tasks) > 1 else task

    @cached_property
    def shards(self) -> dict[str, dict[str, list[Couple]]]:
        """Couples by method and shard."""
        return {
            name: shards(self.couples, method.shard_size) for name, method in self.methods.items()
        }

    def shard_of(self, method: str, couple: Couple) -> str:
        """Return the shard of a method that a couple is in."""
        return next(name for name, own in self.shards[method].items() if couple in own)

    def starts_of(self, method: str, shard: str) -> list[tuple[str, str]]:
        """Return the shards, with their method, whose results a shard starts from."""
        first = self.methods[method].starts_from
        own = self.shards[method][shard] if first else []
        return list(dict.fromkeys((first, self.shard_of(first, couple)) for couple in own))

    def pairs(self, method: str, shard: str) -> list[Couple]:
        """Return the directed pairs of a shard."""
        return both_directions(self.shards[method][shard])

    def scans_of(self, method: str, shard: str) -> list[str]:
        """Return the names of the scans that a shard needs."""
        return sorted({name for pair in self.pairs(method, shard) for name in pair[1:]})

    def training(self, network: str, pairs: str, file: str) -> str:
        """Return the path of a file of a network's training."""
        return f"{self.folder}/networks/{network}/{pairs}/{file}"

    def tasks_of(self, pairs: str) -> list[str]:
        """Return the tasks of the pairs that a network is trained for."""
        return self.tasks if pairs == BOTH else [pairs]

    def models_of(self, method: str, shard: str) -> list[str]:
        """Return the trained networks that a method needs for a shard."""
        pairs = self.trained_for(self.shards[method][shard][0][0])
        return [self.training(name, pairs, "model.pt") for name in self.methods[method].networks]

    @property
    def phantoms(self) -> dict[str, Any] | None:
        """Phantom people that networks are trained on in place of the cohort's training scans."""
        own = self.config["cohort"]["source"] == "phantom"
        return self.config["phantom"]["training"] if own else None

    def published(self, network: str) -> list[str]:
        """Return the published model that a network's training starts from, if there is one."""
        return published(network) if self.config["training"]["start"] == "published" else []

    def needed_models(self, network: str, pairs: str) -> list[str]:
        """Return the trained networks that the training of another one needs."""
        return [self.training(name, pairs, "model.pt") for name in self.networks[network].needs]

    def image(self, scan: str) -> str:
        """Return the path of a preprocessed image."""
        return f"{self.folder}/images/{scan}.nii"

    def label(self, scan: str) -> str:
        """Return the path of a preprocessed label map."""
        return f"{self.folder}/labels/{scan}.nii"

    def fields(self, method: str, shard: str) -> str:
        """Return the folder of a shard's displacement fields."""
        return f"{self.folder}/registrations/{method}/{shard}/fields"

    def outcomes(self, method: str, shard: str) -> str:
        """Return the path of a shard's record: seconds, failures, circumstances."""
        return f"{self.folder}/registrations/{method}/{shard}/outcomes.json"

    def scores(self, method: str, shard: str) -> str:
        """Return the path of a shard's scores."""
        return f"{self.folder}/evaluation/{method}/{shard}.csv"


def _without_absent(config: dict[str, Any], catalogue: Catalogue) -> dict[str, Any]:
    """Leave out Table 2 and curves that show a method, or a row of one, that Table 1 lacks.

    Table 2 also where trainings start from published networks, but not all those of its rows: what
    began with nothing would be compared with what was trained long.
    """
    absent = {*catalogue.originals} - {*config["methods"]}
    rows, of_rows = catalogue.rows, [row["method"] for row in config["table2"]]
    described = [catalogue.describe(name)[0] for name in of_rows if name in rows]
    needed = [network for one in described for network in one.get("networks", ())]
    if config["training"]["start"] == "published" and not all(map(published, needed)):
        config = config | {"table2": []}

    def unless_absent(shown: list, names: Iterable[str]) -> list:
        return [] if absent & {rows[name].of for name in names if name in rows} else shown

    curves = {figure: unless_absent(steps, steps) for figure, steps in config["curves"].items()}
    return config | {"table2": unless_absent(config["table2"], of_rows), "curves": curves}


def check_requirements(described: Iterable[Method | Network], folders: list[str]) -> None:
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


def load_run(config: dict[str, Any]) -> Run:
    """Check everything that can be checked without reading an image; see `UserError`."""
    check_config(config)
    catalogue = Catalogue("method", config, BASELINES)
    config = _without_absent(config, catalogue)
    methods = load_methods(config, catalogue=catalogue)
    networks = load_networks(config, methods.values())
    check_requirements([*methods.values(), *networks.values()], config["program_folders"])
    path = config["pairs"]["list"]
    listed = read_pair_list(path) if path else {}
    scans = load_cohort(config, {name for _, *names in listed.values() for name in names})
    run = Run(config, scans, select_couples(scans, config, listed), methods, networks)
    if networks and config["training"]["start"] == "published":
        check_fit(config, networks)
    if networks:
        trained = [scans[name] for name in run.trained]
        learned = dict.fromkeys(catalogue.rows[m.id].of for m in methods.values() if m.networks)
        check_training(trained, run.tasks, [*learned], own=not run.phantoms)
    return run
