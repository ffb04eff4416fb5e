"""List the scans that networks are trained and validated on, and the couples if not all."""

import pandas as pd

from workflow.data.training import COUPLE_COLUMNS
from workflow.files import write_text
from workflow.job import start_log

start_log(snakemake.log[0])
scans = pd.concat(pd.read_csv(part, dtype=str) for part in snakemake.input).sort_values("image")
couples = pd.DataFrame(snakemake.params.couples, columns=COUPLE_COLUMNS)
write_text(snakemake.output.manifest, scans.to_csv(index=False))
write_text(snakemake.output.couples, couples.to_csv(index=False))
