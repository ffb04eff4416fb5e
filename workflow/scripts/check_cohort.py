"""Stop if a scan in use has faults; record who is in which split, and what all files hold."""

import json
import logging
from collections import Counter
from pathlib import Path

from avsm.errors import SHOWN, raise_all
from avsm.files import write_text
from workflow.data.checks import copies
from workflow.job import start_log

start_log(snakemake.log[0])
params = snakemake.params
parts = [json.loads(Path(part).read_text(encoding="utf-8")) for part in snakemake.input]
same = copies({file: digest for part in parts for file, digest in part["digests"].items()})
faults = [f"{first} has the voxels of {', of '.join(rest)}" for first, *rest in same]
faults = sorted([*faults, *(fault for part in parts for fault in part["faults"])])
warnings = sorted(warning for part in parts for warning in part["warnings"])
for warning in warnings:
    logging.warning(warning)
if len(faults) > SHOWN:
    logging.error("All faults:\n%s", "\n".join(faults))
heading = (
    "Scans with faults (mend them, or take them off the manifest; all are listed in "
    f"{snakemake.log[0]}):"
)
raise_all(heading, faults)
summary = {
    "patients": Counter(params.splits.values()),
    "tested_scans": params.tested,
    "couples": Counter(task for task, *_ in params.couples),
    "splits": params.splits,
    "warnings": warnings,
    "files": {path: noted for part in parts for path, noted in part["files"].items()},
}
write_text(snakemake.output[0], json.dumps(summary, indent=1) + "\n")
