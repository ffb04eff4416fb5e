# The checked run and what several files of rules need; no rules here.
# Parsing must stay light: nothing in this file may import torch, ANTs or SimpleITK.
import sys

STOPPED = "Stopped. The same command goes on where the run was."


def stopped(kind, error, trace):
    """Print one line after Ctrl-C while Snakemake plans, or while it waits for jobs to end."""
    if issubclass(kind, KeyboardInterrupt):
        print(STOPPED, file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


sys.excepthook = stopped  # before the imports, which take most of the time

import json
import math
import platform
import re
import shutil
import zlib
from dataclasses import asdict
from functools import cache
from pathlib import Path

from snakemake.logging import logger

from avsm.errors import UserError
from avsm.files import stamp
from workflow import lock
from workflow.data.pairs import couple_rows, manifest_rows, read_scan
from workflow.data.scans import PHANTOM_VISITS, in_parts, is_mirrored, simulated_note
from workflow.examples import Example, example_figures
from workflow.job import told
from workflow.run import load_run
from workflow.schema import read_yaml
from workflow.sources import digest

# After `--configfile` Snakemake takes `plan` for a configuration: it finds the file of this name.
PLAN = config.pop("plan", False)

# Errors leave by `sys.exit`: what is raised, Snakemake prints with a place in this file before it.
try:
    if workflow.is_main_process:
        for file in map(Path, workflow.configfiles):
            read_yaml(file)  # which refuses what Snakemake reads past: a key that comes twice
    RUN = load_run(config)
except UserError as error:
    sys.exit(str(error))

# What a job died of is told at the end.
IN_BETWEEN = ("CalledProcessError in file", "Look above for error messages")
logger.addFilter(lambda record: not any(text in record.getMessage() for text in IN_BETWEEN))

FOLDER = RUN.folder
LAST_LOCKED = lock.changed(FOLDER)
ENVIRONMENT = "../../environment.yml"
UNKNOWN_COST = 60  # core-seconds of a pair of a million voxels, where method.yaml does not say it
HAVE_IMAGES = [bool(scan.image) for scan in RUN.scans.values()]
PHANTOM = config["cohort"]["source"] == "phantom"


wildcard_constraints:
    scan=r"[A-Za-z0-9._-]+",
    method="|".join(map(re.escape, RUN.methods)),
    task="|".join(RUN.tasks),
    network="|".join(map(re.escape, RUN.networks)),
    pairs="|".join(sorted({pairs for _, pairs in RUN.trainings})),
    shard=r"[a-z-]+-\d{4}",
    part=r"\d+",


def mark_code():
    """Give every rule the digest of its script, of all that this imports, and of the project's
    files that it reads, as a parameter.

    So an edit of code makes anew what it decides, and nothing else, whatever the times of files
    say. What a script imports by a name that it is given is the parameter `imported`.
    """
    for one in workflow.rules:
        if one.script:
            inputs = [str(path) for path in one.input if isinstance(path, str)]  # not functions
            own = [path for path in inputs if Path(workflow.basedir, path).is_file()]
            read = [path for path in own if not path.startswith(FOLDER)]
            one.set_params(code=when_due(f"workflow/rules/{one.script}", *read))


def when_due(*paths):
    """Return `imported` of some paths as a parameter that only rules with jobs evaluate: each job
    reads the Snakefile once more, and needs the digest of its own rule alone.
    """
    return lambda wildcards: imported(*paths)


def imported(*paths):
    """Return the digest of files and folders of the project, and of all that they import."""
    return digest(*(Path(workflow.basedir, path).resolve() for path in paths))


def gpus(params):
    """GPUs that a job takes; none where there is none, so that jobs run side by side there.

    Jobs that are sent to a cluster ask for one whatever this machine has.
    """
    sent = workflow.is_main_process and workflow.nodes is not None
    found = any(map(shutil.which, ("nvidia-smi", "rocm-smi")))
    apple = (platform.system(), platform.machine()) == ("Darwin", "arm64")
    return int(params.get("device", "cpu") != "cpu" and (sent or found or apple))


def minutes(cost=None):
    """Minutes after which a cluster may end the job of a shard: twice what it should take, and 10.

    `cost` is that of a pair as in method.yaml, by default the method's. A job that was ended gets as
    much time again on each attempt.
    """
    megavoxels = math.prod(config["preprocessing"]["size"]) / 1e6

    def of_shard(wildcards, attempt):
        method = RUN.methods[wildcards.method]
        pairs = RUN.pairs(method.id, wildcards.shard)
        seconds = len(pairs) * (cost or method.cost or UNKNOWN_COST) * megavoxels
        return attempt * (10 + math.ceil(2 * seconds / 60))

    return of_shard


def final_outputs():
    """Return what `snakemake` makes when it is asked for nothing in particular."""
    return [
        f"{FOLDER}/cohort.json",
        *rules.make_table1.output,
        *rules.make_report.output,
        *(rules.make_figure11.output if AVSM else []),
        *expand(rules.make_examples.output, number=EXAMPLES),
        *expand(rules.visual_check.output, method=RUN.main, task=RUN.tasks),
        *(RUN.training(*training, "history.png") for training in RUN.trainings),
    ]
