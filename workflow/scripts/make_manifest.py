"""Record versions, seed, machine, configuration and files of the run."""

import json
from pathlib import Path

from avsm.files import write_text
from workflow.config import ROOT
from workflow.contract.programs import find_program, program_version
from workflow.job import start_log
from workflow.provenance import code_version, machine, versions

start_log(snakemake.log[0])
programs = {
    name: program_version(find_program(name, snakemake.params.config["program_folders"]))
    for method in snakemake.params.methods
    for name in method["requires"]["programs"]
}
content = {
    "versions": versions() | programs,
    "machine": machine(),
    "code": code_version(ROOT),
    "files": json.loads(Path(snakemake.input.cohort).read_text(encoding="utf-8"))["files"],
    "seed": snakemake.params.config["seed"],
    "config": snakemake.params.config,
    "methods": snakemake.params.methods,
    "networks": snakemake.params.networks,
    "trainings": [
        json.loads(Path(path).read_text(encoding="utf-8")) for path in snakemake.input.trainings
    ],
}
write_text(snakemake.output[0], json.dumps(content, indent=1) + "\n")
