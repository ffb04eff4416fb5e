"""Check the files of all tested scans and record who is in which split."""

import json
from collections import Counter
from pathlib import Path

from workflow.data.checks import check_scans
from workflow.data.cohort import Scan
from workflow.logs import start_log

start_log(snakemake.log[0])
params = snakemake.params
if params.read:
    check_scans([Scan(**scan) for scan in params.scans], params.labels, snakemake.threads)
summary = {
    "patients": Counter(params.splits.values()),
    "tested_scans": [scan["subject"] + " " + scan["visit"] for scan in params.scans],
    "couples": Counter(task for task, *_ in params.couples),
    "splits": params.splits,
}
Path(snakemake.output[0]).write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
