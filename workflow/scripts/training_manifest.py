"""List the scans that networks are trained and validated on."""

import pandas as pd

from workflow.data.training import COLUMNS
from workflow.files import write_text
from workflow.job import start_log

start_log(snakemake.log[0])
table = pd.DataFrame(snakemake.params.rows, columns=COLUMNS)
write_text(snakemake.output[0], table.to_csv(index=False))
