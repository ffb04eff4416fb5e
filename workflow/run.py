"""A run: the checked configuration with its scans, couples and methods, and where its files lie.

Everything here is cheap, because Snakemake builds it each time it parses the workflow.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from workflow.config import TASKS, check_config
from workflow.contract.methods import Method, check_requirements, load_methods
from workflow.data.cohort import Scan, load_cohort
from workflow.data.pairs import (
    Couple,
    both_directions,
    read_pair_list,
    select_couples,
    shards,
)


@dataclass(frozen=True)
class Run:
    """All that rules need to know; build it with `load_run`."""

    config: dict[str, Any]
    scans: dict[str, Scan]
    couples: list[Couple]
    methods: dict[str, Method]

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
    def shards(self) -> dict[str, dict[str, list[Couple]]]:
        """Couples by method and shard."""
        return {
            name: shards(self.couples, method.shard_size) for name, method in self.methods.items()
        }

    def pairs(self, method: str, shard: str) -> list[Couple]:
        """Return the directed pairs of a shard."""
        return both_directions(self.shards[method][shard])

    def scans_of(self, method: str, shard: str) -> list[str]:
        """Return the names of the scans that a shard needs."""
        return sorted({name for pair in self.pairs(method, shard) for name in pair[1:]})

    def raw_image(self, scan: str) -> str:
        """Return the scan's own image, or where the simulated one is made."""
        return self.scans[scan].image or f"{self.folder}/raw/images/{scan}.nii"

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


def load_run(config: dict[str, Any]) -> Run:
    """Check everything that can be checked without reading an image; see `BenchmarkError`."""
    check_config(config)
    methods = load_methods(config)
    check_requirements(methods, config["program_folders"])
    path = config["pairs"]["list"]
    listed = read_pair_list(path) if path else []
    scans = load_cohort(config, {name for _, *names in listed for name in names})
    return Run(config, scans, select_couples(scans, config, listed), methods)
