# The benchmark: preprocess -> train -> register (one rule for all methods) -> evaluate -> tables, figures.
from snakemake.utils import min_version

min_version("9.0")


configfile: "config/ablation.yaml"
configfile: "config.yaml"


# What a configuration builds on; its own keys come last all the same.
if "builds_on" in config:

    configfile: config["builds_on"]


report: "workflow/report/workflow.rst"


include: "workflow/rules/common.smk"
include: "workflow/rules/hooks.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/register.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/plan.smk"


onstart:
    start_run()
    lift_default_job_limit()
    say_simulated()


onsuccess:
    print_results()


onerror:
    tell_faults()


rule all:
    default_target: True
    input:
        final_outputs(),
    localrule: True


mark_code()
if PLAN:
    workflow.default_target = "plan"
