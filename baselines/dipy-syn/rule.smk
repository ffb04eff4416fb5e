for method in methods_of_this_folder():

    rule:
        name:
            f"register_{method}"
        input:
            **register_input(method),
        output:
            **register_output(method),
        log:
            register_log(method),
        conda:
            ENVIRONMENT
        threads: 1
        resources:
            mem_mb=2000,
            runtime=minutes(method),
            gpu=0,
        params:
            **register_params(method),
        script:
            REGISTER_SCRIPT
