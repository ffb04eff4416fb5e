# What the Snakefile's hooks call: before the first job, and at the end of a run.
from snakemake.io import IOFile


def start_run():
    """Take the run's lock, and remove what the run does not show any more.

    Jobs without outputs, such as `plan`, only look at the run.
    """
    if not any(job.output for job in workflow.dag.needrun_jobs()):
        return
    try:
        lock.take(FOLDER, LAST_LOCKED)
    except (UserError, OSError) as error:
        sys.exit(str(error))
    if {*workflow.dag_settings.targets} <= {"all"}:
        remove_stale()


def remove_stale():
    """Remove tables and figures that Snakemake made, but that the run has no more."""
    shown = {str(path) for job in workflow.dag.jobs for path in job.output}
    for part in ("tables", "figures"):
        for path in map(str, Path(FOLDER, part).rglob("*")):
            if path not in shown and workflow.persistence.metadata(IOFile(path)):
                Path(path).unlink()


def tell_faults():
    """End a run that was stopped, or whose jobs failed, with the reasons as the last lines."""
    scheduler = workflow.scheduler
    jobs = sorted(scheduler.failed, key=lambda job: job.jobid)
    names = [" ".join([job.rule.name, *map(str, job.wildcards)]) for job in jobs]
    faults = told(zip(names, (job.log[0] for job in jobs)))
    stopped = scheduler.running or scheduler._user_kill  # jobs that Ctrl-C ended count as failed
    sys.exit("\n" + "\n\n".join(filter(None, [faults, STOPPED if stopped else ""])))


def say_simulated():
    """Say in the terminal that images are not real, before anything is made of them."""
    for note in simulated_note(HAVE_IMAGES):
        print(note, flush=True)


def print_results():
    """Show a short Table 1 in the terminal, and say where everything is."""
    table = Path(FOLDER, "tables", "table1.csv")
    if table.exists():
        import pandas as pd  # not for each job

        from workflow.referee.table1 import short

        text = short(pd.read_csv(table)).to_string(index=False)
        print(f"\n{text}\n\nThe whole Table 1: {FOLDER}/tables/table1.md")
        print(f"Tables: {FOLDER}/tables/   Figures: {FOLDER}/figures/\n")
        if config["table2"] and not RUN.config["table2"]:
            print(
                "Table 2 is left out: the run lacks methods of its rows, or models/ lacks networks"
                " of them (config/scratch.yaml trains all from nothing).\n"
            )


def lift_default_job_limit():
    """Take off Snakemake's default limit of 100 new jobs a second, which jobs here never meet.

    To keep it, Snakemake 9 wakes up once a second for every job that has ended: after a hundred
    jobs that is a fifth of a core. A limit that the user sets stays.
    """
    limit = workflow.scheduler.job_rate_limiter
    if limit is not None and (limit.max_jobs, limit.timespan) == (100, 1):
        workflow.scheduler.job_rate_limiter = None
