"""Stop if a scan in use has faults; record who is in which split."""

import itertools
import json
import logging
from collections import Counter
from pathlib import Path

from avsm.files import write_text
from workflow.data.checks import copies
from workflow.errors import DataError, raise_all
from workflow.job import start_log

start_log(snakemake.log[0])
params = snakemake.params
parts = {path: json.loads(path.read_text(encoding="utf-8")) for path in map(Path, snakemake.input)}
same = copies({file: d for part in parts.values() for file, d in part["digests"].items()})
faults = [f"{first} has the voxels of {', of '.join(rest)}" for first, *rest in same]
for path, part in parts.items():
    faults += part["faults"]
    if part["faults"] or {*itertools.chain(*same)} & {*part["digests"]}:
        path.unlink()  # so that it is checked again: a mended file may have an old time
warnings = sorted(itertools.chain(*(part["warnings"] for part in parts.values())))
for warning in warnings:
    logging.warning(warning)
faults.sort()
for fault in faults:
    logging.error(fault)
raise_all(
    DataError,
    "Scans with faults (mend them, or take them off the manifest; all are listed in "
    f"{snakemake.log[0]}):",
    faults,
)
summary = {
    "patients": Counter(params.splits.values()),
    "tested_scans": params.tested,
    "couples": Counter(task for task, *_ in params.couples),
    "splits": params.splits,
    "warnings": warnings,
}
write_text(snakemake.output[0], json.dumps(summary, indent=1) + "\n")
