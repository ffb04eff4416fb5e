"""List the scans that networks are trained and validated on, and the couples if not all."""

import pandas as pd

from avsm.files import write_text
from workflow.data.pairs import COUPLE_COLUMNS, listed_path
from workflow.job import start_log

params, output = snakemake.params, snakemake.output
start_log(snakemake.log[0])
# A patient or a visit may have the name NA.
parts = [pd.read_csv(part, dtype=str, keep_default_na=False) for part in snakemake.input]
scans = pd.concat(parts).set_index("image", drop=False)
scans = scans.loc[[listed_path("images", name) for name in params.scans]]
write_text(output.manifest, scans.to_csv(index=False))
couples = pd.DataFrame(params.couples, columns=COUPLE_COLUMNS)
write_text(output.couples, couples.to_csv(index=False))
