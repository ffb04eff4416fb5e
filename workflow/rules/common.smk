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
import zlib
from dataclasses import asdict
from functools import cache
from logging.handlers import QueueHandler
from pathlib import Path

from snakemake.logging import logger
from snakemake_interface_logger_plugins.common import LogEvent

from avsm.errors import UserError
from avsm.files import stamp
from workflow import lock
from workflow.data.pairs import couple_rows, manifest_rows, read_scan
from workflow.data.scans import PHANTOM_VISITS, in_parts, simulated_note
from workflow.examples import Example, example_figures
from workflow.job import say, told
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

# What a job died of is told at the end; of temporary files nobody wants to know.
UNSAID = (
    "CalledProcessError in file",
    "Look above for error messages",
    "Removing temporary output",
    "Would remove temporary output",
    "Updating checkpoint dependencies",
    "The run involves checkpoint jobs",
)
logger.addFilter(lambda record: not any(text in record.getMessage() for text in UNSAID))


def in_one_line(record):
    """Say that a job failed, in place of its whole log, which its last words are told from."""
    if getattr(record, "event", None) == LogEvent.JOB_ERROR:
        say(f"failed, for reasons told at the end: {record.rule_name} ({record.log[0]})")
        return False
    return True


for handler in logger.handlers:
    if isinstance(handler, QueueHandler):  # of a plugin, such as the profiles' rich
        handler.addFilter(in_one_line)


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


def ids_of(*folders):
    """Return a pattern of the methods of some folders: the ids of all their rows."""
    ids = [re.escape(method.id) for method in RUN.methods.values() if method.folder in folders]
    return "|".join(ids) or "(?!)"


def of_method(get):
    """Return an input function or parameter that depends on a rule's method."""
    return lambda wildcards: get(RUN.methods[wildcards.method])


def training_part(wildcards):
    """Names of the scans in a part of the training manifest."""
    return TRAINING_PARTS[int(wildcards.part)]


def training_memory(wildcards, attempt):
    """MB that a training takes, by the grid and the number of scans; more on each attempt.

    Images are kept in half precision, up to 8 GB. A step at 80x192x192 takes 5.4 GB in float32.
    """
    megavoxels = math.prod(config["preprocessing"]["size"]) / 1e6
    images = min(8192, 2.3 * megavoxels * len(RUN.trained))
    if RUN.phantoms:  # two scans each, a byte for each of 16 tissues
        images = 36 * megavoxels * RUN.phantoms["people"]
    return attempt * math.ceil(4000 + 1500 * megavoxels + images)


def phantom_scan(name):
    """A scan of the embedded cohort as the arguments of `phantom_label`, without the size."""
    scan = RUN.scans[name]
    numbers = {"subject": int(scan.subject[1:]), "visit": PHANTOM_VISITS.index(scan.visit)}
    return numbers | {"side": scan.side, "seed": config["seed"]}


def check_part(wildcards):
    """Scans in a part of the check, without the label maps that are never read."""
    return [read_scan(RUN.scans[name]) for name in CHECK_PARTS[int(wildcards.part)]]


def files_of_part(wildcards):
    """Paths of the images and label maps in a part of the check."""
    paths = [path for scan in check_part(wildcards) for path in (scan.image, scan.label)]
    return [path for path in paths if path]


def after_check(wildcards):
    """Wait for the check of the cohort, without being made again whenever that is.

    An `ancient` input would do neither well: Snakemake runs the check alone when it is outdated,
    and leaves what follows for the next call.
    """
    checkpoints.check_cohort.get()
    # Before the check was done, Snakemake meant to make all again that comes after it, and it would.
    workflow.dag._reason.clear()
    return []


def noted(path):
    """Return the size and digest that the check noted of a user's file; None of the run's own."""
    cohort = Path(FOLDER, "cohort.json")
    return files_in(cohort, cohort.stat().st_mtime_ns).get(path) if cohort.exists() else None


@cache
def files_in(cohort, time_ns):
    """Return what a cohort's record says of its files; those of earlier versions say nothing."""
    return json.loads(cohort.read_text(encoding="utf-8")).get("files", {})


def raw(wildcards):
    """Path of what preprocessing starts from: the label map, too, where the image is simulated."""
    scan = RUN.scans[wildcards.scan]
    return (scan.image if wildcards.kind == "images" else None) or scan.label


def simulation(wildcards):
    """How to simulate the image of a scan; None for label maps and scans with an image.

    Checksums of the names seed each scan on its own, whatever else is in the cohort.
    """
    scan = RUN.scans[wildcards.scan]
    if wildcards.kind == "labels" or scan.image:
        return None
    scan_seed, subject_seed = (
        (config["seed"], zlib.crc32(name.encode()))
        for name in (f"scan {scan.name}", f"subject {scan.subject}")
    )
    contrast = config["cohort"]["contrast"]
    return {"seed": scan_seed, "subject_seed": subject_seed, "contrast": contrast}


def phantom_of_shard(wildcards):
    """What the phantom knows of a shard's scans; None for other cohorts."""
    if not PHANTOM:
        return None
    scans = {name: phantom_scan(name) for name in RUN.scans_of(wildcards.method, wildcards.shard)}
    return {"scans": scans, "mirror_left": config["preprocessing"]["mirror_left"]}


def picture_of(example):
    """What a picture needs of a registration."""
    method, pair, affine = example.method, example.pair, example.affine
    _, fixed, moving = pair
    shard = RUN.shard_of(method, pair)
    return {
        "method": method,
        "title": example.title,
        "fixed": fixed,
        "moving": moving,
        "images": [RUN.image(fixed), RUN.image(moving)],
        "labels": [RUN.label(fixed), RUN.label(moving)],
        "fields": RUN.fields(method, shard),
        "affine": affine and RUN.fields(affine, RUN.shard_of(affine, pair)),
        "outcomes": RUN.outcomes(method, shard),
        "scores": RUN.scores(method, shard),
    }


def checked_pair(wildcards):
    """The first pair of a task, for the visual check of a method."""
    task, fixed, moving = pair = next(pair for pair in RUN.couples if pair[0] == wildcards.task)
    title = f"{wildcards.method}, {task}: {moving} (moving) to {fixed} (fixed)"
    return picture_of(Example(title, wildcards.method, pair))


def example_columns(wildcards):
    """The registrations that an example figure shows."""
    return [*map(picture_of, EXAMPLES[wildcards.number].columns)]


def files_of(registrations):
    """Files that pictures of registrations are made from."""
    files = [
        path
        for one in registrations
        for path in (*one["images"], *one["labels"], one["fields"], one["affine"], one["outcomes"])
    ]
    return list(dict.fromkeys(filter(None, files)))


def of_shards(path, methods):
    """Paths of a file that each shard of some methods has."""
    return [path(method, shard) for method in methods for shard in RUN.shards[method]]


def records_of(methods):
    """Paths of what the trainings that some methods need leave about themselves."""
    return [RUN.training(*one, "training.json") for one in RUN.trainings_of(methods)]


def table_files(name, title, *suffixes, category="Tables", kind="table"):
    """Files of a table: its page, which Snakemake's report shows, and others."""
    page = report(
        f"{FOLDER}/tables/{name}.html",
        caption=f"../report/{name}.rst",
        category=category,
        labels={kind: title},
    )
    return [*(f"{FOLDER}/tables/{name}.{suffix}" for suffix in suffixes), page]


def figure_files(name, title):
    """Files of a figure: its picture, which Snakemake's report shows, and others."""
    picture = report(
        f"{FOLDER}/figures/{name}.png",
        caption=f"../report/{name}.rst",
        category="Figures",
        labels={"figure": title},
    )
    return [f"{FOLDER}/figures/{name}.csv", picture, f"{FOLDER}/figures/{name}.pdf"]


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
