# One rule registers with every method. A method that needs its own threads, memory or inputs says so in
# baselines/<method>/rule.smk (docs/contract.md): it then has a rule of its own, by `use rule register`.
OWN_RULES = [
    path
    for path in dict.fromkeys(f"baselines/{m.folder}/rule.smk" for m in RUN.methods.values())
    if Path(workflow.basedir, path).is_file()
]


rule register:
    # Preprocessed images and trained networks, never labels.
    input:
        images=lambda wildcards: [
            RUN.image(scan) for scan in RUN.scans_of(wildcards.method, wildcards.shard)
        ],
        models=lambda wildcards: RUN.models_of(wildcards.method, wildcards.shard),
        starts=lambda wildcards: [
            RUN.outcomes(*shard) for shard in RUN.starts_of(wildcards.method, wildcards.shard)
        ],
    output:
        fields=(directory if config["keep_fields"] else lambda path: temp(directory(path)))(
            RUN.fields("{method}", "{shard}")
        ),
        outcomes=RUN.outcomes("{method}", "{shard}"),
    log:
        f"{FOLDER}/logs/register/{{method}}/{{shard}}.log",
    wildcard_constraints:
        method=ids_of(
            *{m.folder for m in RUN.methods.values()}
            - {Path(path).parent.name for path in OWN_RULES}
        ),
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=4000,
        runtime=minutes(),
        gpu=of_method(lambda method: gpus(method.params)),
    params:
        method="{method}",
        folder=of_method(lambda method: method.folder),
        imported=of_method(lambda method: imported(f"baselines/{method.folder}")),
        params=of_method(lambda method: method.params),
        seed=config["seed"],
        pairs=lambda wildcards: RUN.pairs(wildcards.method, wildcards.shard),
        programs=of_method(lambda method: method.requires["programs"]),
        modules=of_method(lambda method: method.requires["modules"]),
        # Only what runs programs is made again when they are looked for elsewhere.
        program_folders=of_method(
            lambda method: config["program_folders"] if method.requires["programs"] else []
        ),
    script:
        # A rule of a method's own looks for it from its folder, which lies as deep as this one.
        "../../workflow/scripts/register.py"


for rule_file in OWN_RULES:

    include: f"../../{rule_file}"
