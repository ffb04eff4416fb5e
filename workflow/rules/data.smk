# From the cohort to images and label maps on the working grid. They come before registrations, as
# the trainings, which take longest, wait for them.


# Each takes seconds, less than a cluster takes to start a job.
localrules:
    phantom_label,
    simulate_image,
    preprocess_image,
    preprocess_label,


rule phantom_label:
    input:
        code=code("data/phantom", "data/phantom_anatomy", "data/phantom_variation"),
    output:
        f"{FOLDER}/raw/labels/{{scan}}.nii.gz",
    log:
        f"{FOLDER}/logs/phantom/{{scan}}.log",
    priority: 10
    conda:
        ENVIRONMENT
    params:
        scan=lambda wildcards: asdict(RUN.scans[wildcards.scan]),
        phantom=config["phantom"],
        seed=config["seed"],
    script:
        "../scripts/phantom_label.py"


rule simulate_image:
    input:
        label=lambda wildcards: RUN.scans[wildcards.scan].label,
        code=code("data/dess", "data/tissues", "data/knee"),
        checked=after_check,
    output:
        temp(f"{FOLDER}/raw/images/{{scan}}.nii"),
    log:
        f"{FOLDER}/logs/simulate/{{scan}}.log",
    priority: 10
    conda:
        ENVIRONMENT
    resources:
        mem_mb=4000,
    params:
        scan=lambda wildcards: wildcards.scan,
        subject=lambda wildcards: RUN.scans[wildcards.scan].subject,
        seed=config["seed"],
    script:
        "../scripts/simulate_image.py"


checkpoint check_cohort:
    input:
        user_files,
    output:
        f"{FOLDER}/cohort.json",
    log:
        f"{FOLDER}/logs/check_cohort.log",
    priority: 10
    conda:
        ENVIRONMENT
    threads: 4
    resources:
        # It reads every file of the cohort.
        runtime=120,
    params:
        scans=[asdict(read_scan(RUN.scans[name])) for name in RUN.used],
        tested=RUN.tested,
        couples=RUN.couples,
        splits={scan.subject: scan.split for scan in RUN.scans.values()},
        labels=config["labels"],
        read=config["cohort"]["source"] != "phantom",
    script:
        "../scripts/check_cohort.py"


rule preprocess_image:
    input:
        image=lambda wildcards: RUN.raw_image(wildcards.scan),
        checked=after_check,
        code=code("data/preprocess"),
    output:
        f"{FOLDER}/images/{{scan}}.nii",
    log:
        f"{FOLDER}/logs/preprocess_image/{{scan}}.log",
    priority: 10
    conda:
        ENVIRONMENT
    resources:
        mem_mb=2000,
    params:
        scan=lambda wildcards: asdict(RUN.scans[wildcards.scan]),
        preprocessing=config["preprocessing"],
    script:
        "../scripts/preprocess_image.py"


rule preprocess_label:
    input:
        label=lambda wildcards: RUN.scans[wildcards.scan].label,
        checked=after_check,
        code=code("data/preprocess"),
    output:
        f"{FOLDER}/labels/{{scan}}.nii",
    log:
        f"{FOLDER}/logs/preprocess_label/{{scan}}.log",
    priority: 10
    conda:
        ENVIRONMENT
    resources:
        mem_mb=2000,
    params:
        scan=lambda wildcards: asdict(RUN.scans[wildcards.scan]),
        preprocessing=config["preprocessing"],
        merge=config["labels"]["merge"],
    script:
        "../scripts/preprocess_label.py"
