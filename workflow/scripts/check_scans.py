"""Check the files of a part of the scans, and note what they hold."""

import json

from avsm.files import write_text
from workflow.data.checks import check_scans, content
from workflow.data.scans import Scan
from workflow.job import start_job

params, threads = snakemake.params, snakemake.threads
start_job(snakemake.log[0], threads)
scans = [Scan(**scan) for scan in params.scans]
found = check_scans(scans, params.labels, threads)._asdict()
found["files"] = {path: content(path) for path in snakemake.input.files}
write_text(snakemake.output[0], json.dumps(found, indent=1) + "\n")
