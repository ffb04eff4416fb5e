# Networks: trained on the splits train and validation, once for all methods that need them.
TRAINING_PARTS = in_parts(RUN.trained)


# Snakemake plans a job of many inputs in the square of their number. So a cohort is listed in parts,
# and trainings depend on the list. Its digests tell whether a killed training may go on.
rule training_part:
    input:
        images=lambda wildcards: [RUN.image(scan) for scan in training_part(wildcards)],
        # Of validation scans alone: they choose the weights, as in the paper.
        labels=lambda wildcards: [
            RUN.label(scan) for scan in training_part(wildcards) if scan in RUN.validated
        ],
    output:
        f"{FOLDER}/training/parts/{{part}}.csv",
    log:
        f"{FOLDER}/logs/training_part/{{part}}.log",
    priority: 10
    localrule: True
    conda:
        ENVIRONMENT
    params:
        rows=lambda wildcards: manifest_rows([RUN.scans[name] for name in training_part(wildcards)]),
    script:
        "../scripts/training_part.py"


rule training_manifest:
    input:
        [f"{FOLDER}/training/parts/{part}.csv" for part in range(len(TRAINING_PARTS))],
    output:
        manifest=f"{FOLDER}/training/{{pairs}}/manifest.csv",
        couples=f"{FOLDER}/training/{{pairs}}/couples.csv",
    log:
        f"{FOLDER}/logs/training_manifest/{{pairs}}.log",
    priority: 10
    localrule: True
    conda:
        ENVIRONMENT
    params:
        scans=lambda wildcards: RUN.trained_on(RUN.tasks_of(wildcards.pairs)),
        couples=lambda wildcards: couple_rows(
            couple for task in RUN.tasks_of(wildcards.pairs) for couple in RUN.listed[task]
        ),
    script:
        "../scripts/training_manifest.py"


rule train:
    input:
        manifest=f"{FOLDER}/training/{{pairs}}/manifest.csv",
        couples=f"{FOLDER}/training/{{pairs}}/couples.csv",
        models=lambda wildcards: RUN.needed_models(wildcards.network, wildcards.pairs),
        start=lambda wildcards: [*map(ancient, RUN.published(wildcards.network))],
    output:
        model=RUN.training("{network}", "{pairs}", "model.pt"),
        history=RUN.training("{network}", "{pairs}", "history.csv"),
        curve=report(
            RUN.training("{network}", "{pairs}", "history.png"),
            caption="../report/training.rst",
            category="Training",
            labels={"network": "{network}", "pairs": "{pairs}"},
        ),
        record=RUN.training("{network}", "{pairs}", "training.json"),
    log:
        f"{FOLDER}/logs/train/{{network}}_{{pairs}}.log",
    # The longest jobs come first, so that registrations run beside them.
    priority: 20
    conda:
        ENVIRONMENT
    threads: config["training"]["threads"]
    resources:
        mem_mb=training_memory,
        # Enough for most; one that was ended by it goes on where it was.
        runtime=720,
        gpu=lambda wildcards: gpus(RUN.networks[wildcards.network].params),
    params:
        # No output: Snakemake would delete what a killed training left.
        state=lambda wildcards: RUN.training(wildcards.network, wildcards.pairs, "state"),
        folder=lambda wildcards: RUN.networks[wildcards.network].folder,
        imported=lambda wildcards: [
            imported(f"baselines/networks/{RUN.networks[wildcards.network].folder}"),
            imported("workflow/phantom/people.py") if RUN.phantoms else None,
            *map(imported, RUN.published(wildcards.network)),
        ],
        label=lambda wildcards: RUN.networks[wildcards.network].label,
        params=lambda wildcards: RUN.networks[wildcards.network].params,
        modules=lambda wildcards: RUN.networks[wildcards.network].requires["modules"],
        labels=[structure["value"] for structure in config["labels"]["structures"]],
        seed=config["seed"],
        phantoms=RUN.phantoms,
        people_folder=f"{FOLDER}/people",
        size=config["preprocessing"]["size"],
    script:
        "../scripts/train.py"
