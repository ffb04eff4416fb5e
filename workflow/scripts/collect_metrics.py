"""Put the scores of all shards into one tidy table."""

import pandas as pd

from workflow.logs import start_log

start_log(snakemake.log[0])
parts = [pd.read_csv(path, keep_default_na=True) for path in snakemake.input]
pd.concat(parts, ignore_index=True).to_csv(snakemake.output[0], index=False)
