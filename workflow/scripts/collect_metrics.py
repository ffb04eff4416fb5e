"""Put the scores of all shards into one tidy table."""

import pandas as pd

from avsm.files import write_text
from workflow.job import start_log
from workflow.referee.tidy import read_metrics

start_log(snakemake.log[0])
table = pd.concat([read_metrics(path) for path in snakemake.input.tables], ignore_index=True)
write_text(snakemake.output[0], table.to_csv(index=False))
