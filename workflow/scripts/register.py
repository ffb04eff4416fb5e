"""Register one shard of pairs with one method; every method's rule runs this script."""

from functools import partial
from pathlib import Path

from workflow.contract.methods import load_register
from workflow.contract.registration import Context, register_shard, set_threads, write_outcomes
from workflow.logs import start_log
from workflow.provenance import processor, versions

start_log(snakemake.log[0])
params = snakemake.params
set_threads(snakemake.threads, params.seed)
images = {Path(path).name.removesuffix(".nii"): path for path in snakemake.input.images}
outcomes = register_shard(
    load_register(params.method),
    params.params,
    params.pairs,
    images.__getitem__,
    Path(snakemake.output.fields),
    partial(Context, snakemake.threads, params.seed, program_folders=tuple(params.program_folders)),
)
circumstances = {
    "method": params.method,
    "params": params.params,
    "seed": params.seed,
    "device": processor(),
    "threads": snakemake.threads,
    "versions": versions(),
}
write_outcomes(Path(snakemake.output.outcomes), outcomes, circumstances)
