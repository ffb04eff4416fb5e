"""Record versions, seed, machine and configuration of the run."""

import json
from pathlib import Path

from workflow.config import ROOT
from workflow.logs import start_log
from workflow.provenance import code_version, machine, versions

start_log(snakemake.log[0])
content = {
    "versions": versions(),
    "machine": machine(),
    "code": code_version(ROOT),
    "seed": snakemake.params.config["seed"],
    "config": snakemake.params.config,
    "methods": snakemake.params.methods,
}
Path(snakemake.output[0]).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
