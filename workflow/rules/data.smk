# From the cohort to images and label maps on the working grid. They come before registrations, as
# the trainings, which take longest, wait for them. Local rules take seconds, less than a cluster
# takes to start a job.
CHECK_PARTS = in_parts([] if PHANTOM else RUN.used)


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


rule phantom_label:
    output:
        f"{FOLDER}/raw/labels/{{scan}}.nii.gz",
    log:
        f"{FOLDER}/logs/phantom/{{scan}}.log",
    priority: 10
    localrule: True
    conda:
        ENVIRONMENT
    params:
        scan=lambda wildcards: phantom_scan(wildcards.scan),
        size=config["phantom"]["size"],
    script:
        "../scripts/phantom_label.py"


# Faults are handed on, so that those of all scans are told together.
rule check_scans:
    input:
        files=files_of_part,
    output:
        f"{FOLDER}/checks/{{part}}.json",
    log:
        f"{FOLDER}/logs/check_scans/{{part}}.log",
    priority: 10
    conda:
        ENVIRONMENT
    threads: 4
    resources:
        runtime=60,
    params:
        scans=lambda wildcards: [asdict(scan) for scan in check_part(wildcards)],
        # Of what is derived from `input`, Snakemake keeps no record.
        stamps=lambda wildcards: [*map(stamp, files_of_part(wildcards))],
        labels=config["labels"],
    script:
        "../scripts/check_scans.py"


checkpoint check_cohort:
    input:
        [f"{FOLDER}/checks/{part}.json" for part in range(len(CHECK_PARTS))],
    output:
        f"{FOLDER}/cohort.json",
    log:
        f"{FOLDER}/logs/check_cohort.log",
    priority: 10
    localrule: True
    conda:
        ENVIRONMENT
    params:
        tested=[f"{RUN.scans[name].subject} {RUN.scans[name].visit}" for name in RUN.tested],
        couples=RUN.couples,
        splits={scan.subject: scan.split for scan in RUN.scans.values()},
    script:
        "../scripts/check_cohort.py"


# The image of a scan without one is simulated from the label map first.
rule preprocess:
    input:
        # Not the time of a user's file decides, but what `noted` says of it.
        own=raw if PHANTOM else lambda wildcards: ancient(raw(wildcards)),
        checked=after_check,
    output:
        f"{FOLDER}/{{kind}}/{{scan}}.nii",
    log:
        f"{FOLDER}/logs/preprocess/{{kind}}/{{scan}}.log",
    wildcard_constraints:
        kind="images|labels",
    priority: 10
    localrule: True
    conda:
        ENVIRONMENT
    resources:
        mem_mb=lambda wildcards: 4000 if simulation(wildcards) else 2000,
    params:
        simulation=simulation,
        imported=lambda wildcards: (
            imported("workflow/phantom/dess.py") if simulation(wildcards) else None
        ),
        preprocessing=config["preprocessing"],
        mirrored=lambda wildcards: is_mirrored(
            RUN.scans[wildcards.scan], config["preprocessing"]["mirror_left"]
        ),
        merge=lambda wildcards: config["labels"]["merge"] if wildcards.kind == "labels" else None,
        noted=lambda wildcards: noted(raw(wildcards)),
    script:
        "../scripts/preprocess.py"
