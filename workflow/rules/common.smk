# The checked run and helpers for the rules; no rules here.
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
from dataclasses import asdict
from functools import cache
from pathlib import Path

from snakemake.logging import logger

from avsm.errors import UserError
from avsm.files import stamp
from workflow import lock
from workflow.data.scan import simulated_note
from workflow.data.training import couple_rows, manifest_rows, read_scan
from workflow.examples import example_figures
from workflow.job import told
from workflow.run import in_parts, load_run
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
EXAMPLES = example_figures(RUN)
# A method whose networks Figure 11 lists.
AVSM = next((m.id for m in RUN.methods.values() if m.family == "AVSM" and m.networks), None)
PHANTOM = config["cohort"]["source"] == "phantom"
TRAINING_PARTS = in_parts(RUN.trained)
CHECK_PARTS = in_parts([] if PHANTOM else RUN.used)
# Methods whose folder brings a rule of their own.
OWN_RULES = [
    path
    for path in dict.fromkeys(f"baselines/{m.folder}/rule.smk" for m in RUN.methods.values())
    if Path(workflow.basedir, path).is_file()
]


wildcard_constraints:
    scan=r"[A-Za-z0-9._-]+",
    method="|".join(map(re.escape, RUN.methods)),
    task="|".join(RUN.tasks),
    network="|".join(map(re.escape, RUN.networks)),
    pairs="|".join(sorted({pairs for _, pairs in RUN.trainings})),
    shard=r"[a-z-]+-\d{4}",
    part=r"\d+",


def ids_of(*folders):
    """Return a pattern of the methods of some folders: the ids of all their rows."""
    ids = [re.escape(method.id) for method in RUN.methods.values() if method.folder in folders]
    return "|".join(ids) or "(?!)"


def of_method(get):
    """Return an input function or parameter that depends on a rule's method."""
    return lambda wildcards: get(RUN.methods[wildcards.method])


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
            one.set_params(code=when_due(f"workflow/scripts/{one.script}", *read))


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


def training_memory(wildcards, attempt):
    """MB that a training takes, by the grid and the number of scans; more on each attempt.

    Images are kept in half precision, up to 8 GB. A step at 80x192x192 takes 5.4 GB in float32.
    """
    megavoxels = math.prod(config["preprocessing"]["size"]) / 1e6
    images = min(8192, 2.3 * megavoxels * len(RUN.trained))
    if RUN.phantoms:  # two scans each, a byte for each of 16 tissues
        images = 36 * megavoxels * RUN.phantoms["people"]
    return attempt * math.ceil(4000 + 1500 * megavoxels + images)


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


def after_check(wildcards):
    """Wait for the check of the cohort, without being made again whenever that is.

    An `ancient` input would do neither well: Snakemake runs the check alone when it is outdated,
    and leaves what follows for the next call.
    """
    checkpoints.check_cohort.get()
    # Before the check was done, Snakemake meant to make all again that comes after it, and it would.
    workflow.dag._reason.clear()
    return []


def as_noted(path):
    """Return a path such that not the time of a user's file decides, but what `noted` says of it."""
    return path if path.startswith(f"{FOLDER}/") else ancient(path)


def noted(path):
    """Return the size and digest that the check noted of a user's file; None of the run's own."""
    cohort = Path(FOLDER, "cohort.json")
    return files_in(cohort, cohort.stat().st_mtime_ns).get(path) if cohort.exists() else None


@cache
def files_in(cohort, time_ns):
    """Return what a cohort's record says of its files; those of earlier versions say nothing."""
    return json.loads(cohort.read_text(encoding="utf-8")).get("files", {})


def check_part(wildcards):
    """Scans in a part of the check, without the label maps that are never read."""
    return [read_scan(RUN.scans[name]) for name in CHECK_PARTS[int(wildcards.part)]]


def files_of_part(wildcards):
    """Paths of the images and label maps in a part of the check."""
    paths = [path for scan in check_part(wildcards) for path in (scan.image, scan.label)]
    return [path for path in paths if path]


def training_part(wildcards):
    """Names of the scans in a part of the training manifest."""
    return TRAINING_PARTS[int(wildcards.part)]


def labels_of_shard(wildcards):
    """Label maps the referee needs to score a shard."""
    return [RUN.label(scan) for scan in RUN.scans_of(wildcards.method, wildcards.shard)]


def phantom_of_shard(wildcards):
    """What the phantom knows of a shard's scans; None for other cohorts."""
    if not PHANTOM:
        return None
    scans = RUN.scans_of(wildcards.method, wildcards.shard)
    return {
        "scans": {name: asdict(RUN.scans[name]) for name in scans},
        "seed": config["seed"],
        "mirror_left": config["preprocessing"]["mirror_left"],
    }


def records(trainings):
    """Paths of what trainings leave about themselves."""
    return [RUN.training(*training, "training.json") for training in trainings]


def outcomes(methods):
    """Paths of the records of all registrations of some methods."""
    return [RUN.outcomes(method, shard) for method in methods for shard in RUN.shards[method]]


def avsm_model():
    """Path of AVSM's networks in one file, those for the first task."""
    return RUN.models_of(AVSM, next(iter(RUN.shards[AVSM])))[0]


def first_shard(method, task):
    """Name of the first shard of a task."""
    return next(shard for shard in RUN.shards[method] if shard.startswith(task))


def check_input(wildcards):
    """Inputs of the visual check of the first pair of a task."""
    method, task = wildcards.method, wildcards.task
    shard = first_shard(method, task)
    _, fixed, moving = RUN.pairs(method, shard)[0]
    return {
        "fields": RUN.fields(method, shard),
        "outcomes": RUN.outcomes(method, shard),
        "images": [RUN.image(fixed), RUN.image(moving)],
        "labels": [RUN.label(fixed), RUN.label(moving)],
    }


def example_column(example):
    """What an example figure needs of one registration."""
    _, fixed, moving = example.pair
    affine = example.affine
    return {
        "title": example.title,
        "fixed": fixed,
        "moving": moving,
        "images": [RUN.image(fixed), RUN.image(moving)],
        "labels": [RUN.label(fixed), RUN.label(moving)],
        "fields": RUN.fields(example.method, RUN.shard_of(example.method, example.pair)),
        "affine": affine and RUN.fields(affine, RUN.shard_of(affine, example.pair)),
        "scores": RUN.scores(example.method, RUN.shard_of(example.method, example.pair)),
    }


def example_files(wildcards):
    """Files that an example figure is made from."""
    columns = [example_column(example) for example in EXAMPLES[wildcards.number].columns]
    fields = [column[kind] for column in columns for kind in ("fields", "affine") if column[kind]]
    images = [path for column in columns for path in (*column["images"], *column["labels"])]
    scores = [column["scores"] for column in columns]
    found = {"fields": fields, "images": images, "scores": scores}
    return {kind: list(dict.fromkeys(paths)) for kind, paths in found.items()}


def final_outputs():
    """Return what `snakemake` makes when it is asked for nothing in particular."""
    tables = [
        f"{FOLDER}/tables/{table}.{suffix}"
        for table in ("table1", "table3", *(["table2"] if RUN.config["table2"] else []))
        for suffix in ("csv", "md", "tex", "html")
    ]
    figures = [
        f"{FOLDER}/figures/{figure}.{suffix}"
        for figure in (
            "figure5",
            "figure7",
            *(["figure9"] if RUN.paper else []),
            "ranking",
            *(f"examples/figure{number}" for number in EXAMPLES),
            *filter(RUN.config["curves"].get, RUN.config["curves"]),
        )
        for suffix in ("png", "pdf", "csv")
    ]
    checks = [
        f"{FOLDER}/figures/checks/{method}_{task}.png" for method in RUN.main for task in RUN.tasks
    ]
    curves = [RUN.training(*training, "history.png") for training in RUN.trainings]
    texts = ["fairness", *(["claims"] if RUN.paper else []), *(["figure11"] if AVSM else [])]
    tables += [
        f"{FOLDER}/tables/{name}.{suffix}" for name in texts for suffix in ("csv", "md", "html")
    ]
    tables += [
        f"{FOLDER}/tables/{name}"
        for name in ("metrics.csv", "significance.csv", "significance.html")
    ]
    records = [f"{FOLDER}/cohort.json", f"{FOLDER}/manifest.json"]
    return [*tables, *figures, *checks, *curves, *records]
