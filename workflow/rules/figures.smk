# Figures: pure functions of metrics.csv and the methods' descriptions, see tables.smk.


localrules:
    make_curves,
    make_examples,
    make_figure9,
    make_figure11,
    make_ranking,
    make_boxplot,


rule make_curves:
    input:
        metrics=f"{FOLDER}/tables/metrics.csv",
        style="matplotlibrc",
    output:
        png=report(
            f"{FOLDER}/figures/figure{{number}}.png",
            caption="../report/curves.rst",
            category="Figures",
            labels={"figure": "Figure {number}"},
        ),
        pdf=f"{FOLDER}/figures/figure{{number}}.pdf",
        csv=f"{FOLDER}/figures/figure{{number}}.csv",
    log:
        f"{FOLDER}/logs/make_curves/figure{{number}}.log",
    wildcard_constraints:
        number="8|10",
    conda:
        ENVIRONMENT
    params:
        **COMPARED,
        steps=lambda wildcards: RUN.config["curves"][f"figure{wildcards.number}"],
    script:
        "../scripts/make_curves.py"


rule make_examples:
    input:
        fields=lambda wildcards: example_files(wildcards)["fields"],
        images=lambda wildcards: example_files(wildcards)["images"],
        scores=lambda wildcards: example_files(wildcards)["scores"],
        style="matplotlibrc",
    output:
        png=report(
            f"{FOLDER}/figures/examples/figure{{number}}.png",
            caption="../report/examples.rst",
            category="Examples",
            labels={"figure": "Figure {number}"},
        ),
        pdf=f"{FOLDER}/figures/examples/figure{{number}}.pdf",
        csv=f"{FOLDER}/figures/examples/figure{{number}}.csv",
    log:
        f"{FOLDER}/logs/make_examples/figure{{number}}.log",
    wildcard_constraints:
        number="|".join(EXAMPLES),
    priority: 30
    conda:
        ENVIRONMENT
    params:
        columns=lambda wildcards: [
            example_column(example) for example in EXAMPLES[wildcards.number].columns
        ],
        rows=lambda wildcards: EXAMPLES[wildcards.number].rows,
        structures=config["labels"]["structures"],
    script:
        "../scripts/make_examples.py"


rule make_figure9:
    input:
        checked=after_check,
        style="matplotlibrc",
    output:
        png=report(
            f"{FOLDER}/figures/figure9.png",
            caption="../report/figure9.rst",
            category="Figures",
            labels={"figure": "Figure 9"},
        ),
        pdf=f"{FOLDER}/figures/figure9.pdf",
        csv=f"{FOLDER}/figures/figure9.csv",
    log:
        f"{FOLDER}/logs/make_figure9.log",
    conda:
        ENVIRONMENT
    script:
        "../scripts/make_figure9.py"


rule make_figure11:
    input:
        model=lambda wildcards: avsm_model(),
    output:
        csv=f"{FOLDER}/tables/figure11.csv",
        md=f"{FOLDER}/tables/figure11.md",
        tex=f"{FOLDER}/tables/figure11.tex",
        html=report(
            f"{FOLDER}/tables/figure11.html",
            caption="../report/figure11.rst",
            category="Figures",
            labels={"figure": "Figure 11"},
        ),
    log:
        f"{FOLDER}/logs/make_figure11.log",
    conda:
        ENVIRONMENT
    script:
        "../scripts/make_figure11.py"


rule make_ranking:
    input:
        metrics=f"{FOLDER}/tables/metrics.csv",
        style="matplotlibrc",
    output:
        png=report(
            f"{FOLDER}/figures/ranking.png",
            caption="../report/ranking.rst",
            category="Figures",
            labels={"figure": "Ranking"},
        ),
        pdf=f"{FOLDER}/figures/ranking.pdf",
        csv=f"{FOLDER}/figures/ranking.csv",
    log:
        f"{FOLDER}/logs/make_ranking.log",
    conda:
        ENVIRONMENT
    params:
        **COMPARED,
    script:
        "../scripts/make_ranking.py"


rule make_boxplot:
    input:
        metrics=f"{FOLDER}/tables/metrics.csv",
        style="matplotlibrc",
    output:
        png=report(
            f"{FOLDER}/figures/figure{{number}}.png",
            caption="../report/boxplot.rst",
            category="Figures",
            labels={"figure": "Figure {number}"},
        ),
        pdf=f"{FOLDER}/figures/figure{{number}}.pdf",
        csv=f"{FOLDER}/figures/figure{{number}}.csv",
    log:
        f"{FOLDER}/logs/make_boxplot/figure{{number}}.log",
    wildcard_constraints:
        number="5|7",
    conda:
        ENVIRONMENT
    params:
        methods=METHODS,
        tasks=RUN.tasks,
    script:
        "../scripts/make_boxplot.py"
