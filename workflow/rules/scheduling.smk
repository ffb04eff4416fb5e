# Snakemake's default limit, 100 new jobs a second, is never met by jobs of seconds, but costs much:
# to keep it, Snakemake 9 wakes up once a second for every job that has ended, and after a hundred
# jobs spends a fifth of a core on it. A limit that the user sets stays.
SCHEDULING = workflow.scheduling_settings
DEFAULT_LIMIT = (100, 1)  # jobs, seconds

if SCHEDULING and SCHEDULING.max_jobs_per_timespan:
    LIMIT = SCHEDULING.max_jobs_per_timespan
    if (LIMIT.max_jobs, LIMIT.timespan) == DEFAULT_LIMIT:
        SCHEDULING.max_jobs_per_timespan = None
