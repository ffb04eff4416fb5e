"""List a part of the scans that networks are trained and validated on, with their digests."""

import pandas as pd

from avsm.files import file_digest, write_text
from workflow.job import start_log

start_log(snakemake.log[0])
scans = pd.DataFrame(snakemake.params.rows)
scans["sha256"] = [*map(file_digest, snakemake.input.images)]
maps = map(file_digest, snakemake.input.labels)
scans["label_sha256"] = [next(maps) if label else "" for label in scans["label"]]
write_text(snakemake.output[0], scans.to_csv(index=False))
