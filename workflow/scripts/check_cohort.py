"""Check the files of all scans in use and record who is in which split."""

import json
from collections import Counter

from workflow.data.checks import check_scans
from workflow.data.cohort import Scan
from workflow.files import write_text
from workflow.job import start_job

start_job(snakemake.log[0], snakemake.threads)
params = snakemake.params
scans = [Scan(**scan) for scan in params.scans]
if params.read:
    check_scans(scans, params.labels, snakemake.threads)
summary = {
    "patients": Counter(params.splits.values()),
    "tested_scans": [
        f"{scan.subject} {scan.visit}" for scan in scans if scan.name in params.tested
    ],
    "couples": Counter(task for task, *_ in params.couples),
    "splits": params.splits,
}
write_text(snakemake.output[0], json.dumps(summary, indent=1) + "\n")
