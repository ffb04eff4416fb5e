"""Check the files of all tested scans and record who is in which split."""

import json
from collections import Counter

from workflow.data.checks import check_scans
from workflow.data.cohort import Scan
from workflow.files import write_text
from workflow.job import start_job

start_job(snakemake.log[0], snakemake.threads)
params = snakemake.params
if params.read:
    check_scans([Scan(**scan) for scan in params.scans], params.labels, snakemake.threads)
summary = {
    "patients": Counter(params.splits.values()),
    "tested_scans": [scan["subject"] + " " + scan["visit"] for scan in params.scans],
    "couples": Counter(task for task, *_ in params.couples),
    "splits": params.splits,
}
write_text(snakemake.output[0], json.dumps(summary, indent=1) + "\n")
