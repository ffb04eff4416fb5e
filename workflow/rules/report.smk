# Tables and figures: pure functions of scores, records and the methods' descriptions.

# A method whose networks Figure 11 lists.
AVSM = next((m.id for m in RUN.methods.values() if m.family == "AVSM" and m.networks), None)


rule make_table1:
    # By itself: it waits for no method of Table 2 or the curves.
    input:
        scores=of_shards(RUN.scores, RUN.main),
        outcomes=of_shards(RUN.outcomes, RUN.main),
        trainings=records_of(RUN.main),
        cohort=f"{FOLDER}/cohort.json",
    output:
        table_files("table1", "Table 1", "csv", "md", "tex"),
    log:
        f"{FOLDER}/logs/make_table1.log",
    localrule: True
    conda:
        ENVIRONMENT
    params:
        methods=[*map(asdict, RUN.main.values())],
        networks=[
            asdict(RUN.networks[name])
            for name in dict.fromkeys(name for name, _ in RUN.trainings_of(RUN.main))
        ],
        tasks=RUN.tasks,
        grid=config["preprocessing"]["size"],
        images=HAVE_IMAGES,
        paper=RUN.paper,
    script:
        "../scripts/make_table1.py"


rule make_report:
    # All others in one job: each would take longer to start than to make.
    input:
        scores=of_shards(RUN.scores, RUN.shown),
        outcomes=of_shards(RUN.outcomes, RUN.shown),
        trainings=records_of(RUN.methods),
        trainings_of_table2=records_of(RUN.table2.values()),
        cohort=f"{FOLDER}/cohort.json",
    output:
        f"{FOLDER}/manifest.json",
        f"{FOLDER}/tables/metrics.csv",
        table_files("table2", "Table 2", "csv", "md", "tex") if RUN.config["table2"] else [],
        table_files("table3", "Table 3", "csv", "md", "tex"),
        table_files("significance", "All comparisons", "csv"),
        table_files("claims", "The paper's claims", "csv", "md") if RUN.paper else [],
        table_files("fairness", "What each method was given", "csv", "md", category="Fairness"),
        figure_files("figure5", "Figure 5"),
        figure_files("figure7", "Figure 7"),
        figure_files("figure8", "Figure 8") if RUN.config["curves"]["figure8"] else [],
        figure_files("figure9", "Figure 9") if RUN.paper else [],
        figure_files("figure10", "Figure 10") if RUN.config["curves"]["figure10"] else [],
        figure_files("ranking", "Ranking"),
    log:
        f"{FOLDER}/logs/make_report.log",
    localrule: True
    conda:
        ENVIRONMENT
    params:
        config=config,
        main=[*map(asdict, RUN.main.values())],
        shown=[*map(asdict, RUN.shown.values())],
        networks=[*map(asdict, RUN.networks.values())],
        tasks=RUN.tasks,
        # Of each scan that is tested.
        patients={name: RUN.scans[name].subject for name in RUN.tested},
        scans=[{"subject": scan.subject, "split": scan.split} for scan in RUN.scans.values()],
        images=HAVE_IMAGES,
        table2=RUN.config["table2"],
        curves=RUN.config["curves"],
        paper=RUN.paper,
    script:
        "../scripts/make_report.py"


rule make_figure11:
    input:
        # AVSM's networks in one file, those for the first task.
        model=lambda wildcards: RUN.models_of(AVSM, next(iter(RUN.shards[AVSM])))[0],
    output:
        table_files("figure11", "Figure 11", "csv", "md", "tex", category="Figures", kind="figure"),
    log:
        f"{FOLDER}/logs/make_figure11.log",
    localrule: True
    conda:
        ENVIRONMENT
    script:
        "../scripts/make_figure11.py"
