"""Score one shard of one method."""

import json
from pathlib import Path

from workflow.logs import start_log
from workflow.referee.evaluate import evaluate_shard

start_log(snakemake.log[0])
labels = {Path(path).name.removesuffix(".nii"): path for path in snakemake.input.labels}
record = json.loads(Path(snakemake.input.outcomes).read_text(encoding="utf-8"))
table = evaluate_shard(
    record,
    Path(snakemake.input.fields),
    labels.__getitem__,
    snakemake.params.structures,
    snakemake.params.margin,
)
table.to_csv(snakemake.output[0], index=False)
