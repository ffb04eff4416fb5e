"""Check the files of a part of the scans."""

import json

from avsm.files import write_text
from workflow.data.checks import check_scans
from workflow.data.cohort import Scan
from workflow.job import start_job

params, threads = snakemake.params, snakemake.threads
start_job(snakemake.log[0], threads)
scans = [Scan(**scan) for scan in params.scans]
checked = check_scans(scans, params.labels, threads)
write_text(snakemake.output[0], json.dumps(checked._asdict(), indent=1) + "\n")
