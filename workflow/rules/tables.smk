# Tables: pure functions of metrics.csv, records and the methods' descriptions.
METHODS = [asdict(method) for method in RUN.main.values()]
ALL_METHODS = [asdict(method) for method in RUN.shown.values()]
NETWORKS = [asdict(network) for network in RUN.networks.values()]
MAIN_TRAININGS = RUN.trainings_of(RUN.main)
MAIN_NETWORKS = [n for n in NETWORKS if n["id"] in {name for name, _ in MAIN_TRAININGS}]
TABLE2_TRAININGS = RUN.trainings_of(RUN.table2.values())
# What is compared, of whom, and the seed by which patients are redrawn.
COMPARED = {
    "methods": METHODS,
    "tasks": RUN.tasks,
    "patients": {name: RUN.scans[name].subject for name in RUN.tested},
    "seed": config["seed"],
}


localrules:
    collect_metrics,
    make_table1,
    make_table2,
    make_table3,
    judge_claims,
    make_fairness_card,
    make_manifest,


rule collect_metrics:
    input:
        tables=[RUN.scores(method, shard) for method in RUN.shown for shard in RUN.shards[method]],
    output:
        f"{FOLDER}/tables/metrics.csv",
    log:
        f"{FOLDER}/logs/collect_metrics.log",
    conda:
        ENVIRONMENT
    script:
        "../scripts/collect_metrics.py"


rule make_table1:
    input:
        metrics=f"{FOLDER}/tables/metrics.csv",
        outcomes=outcomes(RUN.main),
        trainings=records(MAIN_TRAININGS),
        cohort=f"{FOLDER}/cohort.json",
        paper="workflow/referee/paper_table1.csv",
    output:
        csv=f"{FOLDER}/tables/table1.csv",
        md=f"{FOLDER}/tables/table1.md",
        tex=f"{FOLDER}/tables/table1.tex",
        html=report(
            f"{FOLDER}/tables/table1.html",
            caption="../report/table1.rst",
            category="Tables",
            labels={"table": "Table 1"},
        ),
    log:
        f"{FOLDER}/logs/make_table1.log",
    conda:
        ENVIRONMENT
    params:
        methods=METHODS,
        networks=MAIN_NETWORKS,
        tasks=RUN.tasks,
        grid=config["preprocessing"]["size"],
        images=HAVE_IMAGES,
        paper=RUN.paper,
    script:
        "../scripts/make_table1.py"


rule make_table2:
    input:
        metrics=f"{FOLDER}/tables/metrics.csv",
        trainings=records(TABLE2_TRAININGS),
        paper="workflow/referee/paper_table2.csv",
    output:
        csv=f"{FOLDER}/tables/table2.csv",
        md=f"{FOLDER}/tables/table2.md",
        tex=f"{FOLDER}/tables/table2.tex",
        html=report(
            f"{FOLDER}/tables/table2.html",
            caption="../report/table2.rst",
            category="Tables",
            labels={"table": "Table 2"},
        ),
    log:
        f"{FOLDER}/logs/make_table2.log",
    conda:
        ENVIRONMENT
    params:
        **COMPARED | {"methods": ALL_METHODS},
        rows=RUN.config["table2"],
        paper=RUN.paper,
    script:
        "../scripts/make_table2.py"


rule make_table3:
    input:
        metrics=f"{FOLDER}/tables/metrics.csv",
    output:
        csv=f"{FOLDER}/tables/table3.csv",
        md=f"{FOLDER}/tables/table3.md",
        tex=f"{FOLDER}/tables/table3.tex",
        html=report(
            f"{FOLDER}/tables/table3.html",
            caption="../report/table3.rst",
            category="Tables",
            labels={"table": "Table 3"},
        ),
        significance=f"{FOLDER}/tables/significance.csv",
        comparisons=report(
            f"{FOLDER}/tables/significance.html",
            caption="../report/significance.rst",
            category="Tables",
            labels={"table": "All comparisons"},
        ),
    log:
        f"{FOLDER}/logs/make_table3.log",
    conda:
        ENVIRONMENT
    params:
        **COMPARED,
    script:
        "../scripts/make_table3.py"


rule judge_claims:
    input:
        metrics=f"{FOLDER}/tables/metrics.csv",
        claims="workflow/referee/paper_claims.yaml",
    output:
        csv=f"{FOLDER}/tables/claims.csv",
        md=f"{FOLDER}/tables/claims.md",
        html=report(
            f"{FOLDER}/tables/claims.html",
            caption="../report/claims.rst",
            category="Tables",
            labels={"table": "The paper's claims"},
        ),
    log:
        f"{FOLDER}/logs/judge_claims.log",
    conda:
        ENVIRONMENT
    params:
        **COMPARED | {"methods": ALL_METHODS},
        rows=RUN.table2,
    script:
        "../scripts/judge_claims.py"


rule make_fairness_card:
    input:
        outcomes=outcomes(RUN.shown),
        trainings=records(RUN.trainings),
    output:
        csv=f"{FOLDER}/tables/fairness.csv",
        md=f"{FOLDER}/tables/fairness.md",
        html=report(
            f"{FOLDER}/tables/fairness.html",
            caption="../report/fairness.rst",
            category="Fairness",
            labels={"table": "What each method was given"},
        ),
    log:
        f"{FOLDER}/logs/make_fairness_card.log",
    conda:
        ENVIRONMENT
    params:
        methods=ALL_METHODS,
        networks=NETWORKS,
        scans=[{"subject": s.subject, "split": s.split} for s in RUN.scans.values()],
        images=HAVE_IMAGES,
        tested=COMPARED["patients"],
    script:
        "../scripts/make_fairness_card.py"


rule make_manifest:
    input:
        metrics=f"{FOLDER}/tables/metrics.csv",
        trainings=records(RUN.trainings),
        cohort=f"{FOLDER}/cohort.json",
    output:
        f"{FOLDER}/manifest.json",
    log:
        f"{FOLDER}/logs/make_manifest.log",
    conda:
        ENVIRONMENT
    params:
        config=config,
        methods=ALL_METHODS,
        networks=NETWORKS,
    script:
        "../scripts/make_manifest.py"
