"""Register one shard of pairs with one method; every method's rule runs this script."""

from pathlib import Path

from workflow.contract.folders import BASELINES
from workflow.contract.programs import find_program, program_version
from workflow.contract.registration import Context
from workflow.contract.shard import read_starts, register_shard, write_outcomes
from workflow.job import start_job
from workflow.provenance import processor, versions

params, threads = snakemake.params, snakemake.threads
start_job(snakemake.log[0], threads, params.seed, snakemake.resources.get("gpu", 0))
images = {Path(path).name.removesuffix(".nii"): path for path in snakemake.input.images}
programs = {name: find_program(name, params.program_folders) for name in params.programs}
minutes = snakemake.config["time_limit_minutes"]
starts, start = None, None
if snakemake.input.starts:
    starts, start = read_starts([*map(Path, snakemake.input.starts)])
outcomes = register_shard(
    BASELINES / params.folder,
    params.params,
    params.pairs,
    images.__getitem__,
    Path(snakemake.output.fields),
    Context(
        threads,
        params.seed,
        Path(),
        tuple(params.program_folders),
        models=tuple(map(Path, snakemake.input.models)),
    ),
    # Of the configuration, not of the rule's parameters: another limit registers nothing again.
    minutes and 60 * minutes,
    starts,
)
circumstances = {
    "method": params.method,
    "params": params.params,
    "seed": params.seed,
    "processor": processor(),
    "threads": threads,
    "start": start,
    "versions": versions(params.modules)
    | {name: program_version(path) for name, path in programs.items()},
}
write_outcomes(Path(snakemake.output.outcomes), outcomes, circumstances)
