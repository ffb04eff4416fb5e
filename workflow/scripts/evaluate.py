"""Score one shard of one method."""

import json
from pathlib import Path

from workflow.files import write_text
from workflow.job import start_job
from workflow.referee.evaluate import evaluate_shard

start_job(snakemake.log[0], snakemake.threads)
labels = {Path(path).name.removesuffix(".nii"): path for path in snakemake.input.labels}
record = json.loads(Path(snakemake.input.outcomes).read_text(encoding="utf-8"))
table = evaluate_shard(
    record,
    Path(snakemake.input.fields),
    labels.__getitem__,
    snakemake.params.structures,
    snakemake.params.margin,
)
write_text(snakemake.output[0], table.to_csv(index=False))
