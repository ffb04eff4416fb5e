# From the cohort to images and label maps on the working grid. They come before registrations, as
# the trainings, which take longest, wait for them. Local rules take seconds, less than a cluster
# takes to start a job.
CHECK_PARTS = in_parts([] if PHANTOM else RUN.used)


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
        mirrored=lambda wildcards: RUN.scans[wildcards.scan].mirrored,
        merge=lambda wildcards: config["labels"]["merge"] if wildcards.kind == "labels" else None,
        noted=lambda wildcards: noted(raw(wildcards)),
    script:
        "../scripts/preprocess.py"
