# The referee: scores every shard of every method in the same way.


localrules:
    visual_check,


rule evaluate:
    input:
        fields=RUN.fields("{method}", "{shard}"),
        outcomes=RUN.outcomes("{method}", "{shard}"),
        labels=labels_of_shard,
    output:
        RUN.scores("{method}", "{shard}"),
    log:
        f"{FOLDER}/logs/evaluate/{{method}}/{{shard}}.log",
    # Before further registrations, so that few displacement fields wait on the disk.
    priority: 30
    conda:
        ENVIRONMENT
    resources:
        mem_mb=2000,
        runtime=minutes(cost=6),
    params:
        structures=config["labels"]["structures"],
        margin=config["evaluation"]["symmetry_margin"],
        phantom=phantom_of_shard,
        imported=when_due("workflow/phantom/labels.py") if PHANTOM else None,
    script:
        "../scripts/evaluate.py"


rule visual_check:
    input:
        unpack(check_input),
        style="matplotlibrc",
    output:
        report(
            f"{FOLDER}/figures/checks/{{method}}_{{task}}.png",
            caption="../report/visual_check.rst",
            category="Visual checks",
            labels={"method": "{method}", "task": "{task}"},
        ),
    log:
        f"{FOLDER}/logs/visual_check/{{method}}_{{task}}.log",
    priority: 30
    conda:
        ENVIRONMENT
    params:
        pair=lambda wildcards: RUN.pairs(
            wildcards.method, first_shard(wildcards.method, wildcards.task)
        )[0],
        structures=config["labels"]["structures"],
    script:
        "../scripts/visual_check.py"
