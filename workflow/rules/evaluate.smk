# The referee scores every shard of every method in the same way; and pictures of registrations.
EXAMPLES = example_figures(RUN)


rule evaluate:
    input:
        fields=RUN.fields("{method}", "{shard}"),
        outcomes=RUN.outcomes("{method}", "{shard}"),
        labels=lambda wildcards: [
            RUN.label(scan) for scan in RUN.scans_of(wildcards.method, wildcards.shard)
        ],
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
        lambda wildcards: files_of([checked_pair(wildcards)]),
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
    localrule: True
    conda:
        ENVIRONMENT
    params:
        pair=checked_pair,
        structures=config["labels"]["structures"],
    script:
        "../scripts/visual_check.py"


rule make_examples:
    input:
        lambda wildcards: files_of(example_columns(wildcards)),
        scores=lambda wildcards: [one["scores"] for one in example_columns(wildcards)],
    output:
        csv=f"{FOLDER}/figures/examples/figure{{number}}.csv",
        png=report(
            f"{FOLDER}/figures/examples/figure{{number}}.png",
            caption="../report/examples.rst",
            category="Examples",
            labels={"figure": "Figure {number}"},
        ),
        pdf=f"{FOLDER}/figures/examples/figure{{number}}.pdf",
    log:
        f"{FOLDER}/logs/make_examples/figure{{number}}.log",
    wildcard_constraints:
        number="|".join(EXAMPLES),
    priority: 30
    localrule: True
    conda:
        ENVIRONMENT
    params:
        columns=example_columns,
        rows=lambda wildcards: EXAMPLES[wildcards.number].rows,
        structures=config["labels"]["structures"],
    script:
        "../scripts/make_examples.py"
