# What the run will cost, before it is started: snakemake --cores 64 plan


rule plan:
    log:
        f"{FOLDER}/logs/plan.log",
    localrule: True
    conda:
        ENVIRONMENT
    params:
        methods=[
            asdict(method) | {"pairs": 2 * len(RUN.couples), "jobs": len(RUN.shards[name])}
            for name, method in RUN.methods.items()
        ],
        networks=[
            asdict(RUN.networks[name]) | {"pairs": pairs, "start": RUN.published(name)}
            for name, pairs in RUN.trainings
        ],
        scans={"images": len(RUN.used), "labels": len({*RUN.tested, *RUN.validated})},
        size=config["preprocessing"]["size"],
        # Asked for by this job alone: where no cores are given, as with --unlock, it is an error.
        cores=lambda wildcards: workflow.cores,
    script:
        "../scripts/make_plan.py"
