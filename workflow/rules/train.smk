# Networks: trained on the splits train and validation, once for all methods that need them.


rule training_manifest:
    output:
        f"{FOLDER}/training/manifest.csv",
    log:
        f"{FOLDER}/logs/training_manifest.log",
    priority: 10
    localrule: True
    conda:
        ENVIRONMENT
    params:
        rows=manifest_rows([RUN.scans[name] for name in RUN.trained]),
    script:
        "../scripts/training_manifest.py"


rule train:
    input:
        manifest=f"{FOLDER}/training/manifest.csv",
        images=[RUN.image(scan) for scan in RUN.trained],
        # Of validation scans alone: they choose the weights, as in the paper.
        labels=[RUN.label(scan) for scan in RUN.validated],
        models=lambda wildcards: RUN.needed_models(wildcards.network, wildcards.pairs),
        code=network_code,
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
        mem_mb=8000,
        # Enough for most; one that was ended by it goes on where it was.
        runtime=720,
        gpu=lambda wildcards: gpus(RUN.networks[wildcards.network].params),
    params:
        # No output: Snakemake would delete what a killed training left.
        state=lambda wildcards: RUN.training(wildcards.network, wildcards.pairs, "state"),
        folder=lambda wildcards: RUN.networks[wildcards.network].folder,
        label=lambda wildcards: RUN.networks[wildcards.network].label,
        params=lambda wildcards: RUN.networks[wildcards.network].params,
        modules=lambda wildcards: RUN.networks[wildcards.network].requires["modules"],
        labels=[structure["value"] for structure in config["labels"]["structures"]],
        seed=config["seed"],
    script:
        "../scripts/train.py"
