"""The same small run through a real Slurm and locally: equal tables, trained on the GPU node."""

import pandas as pd
import pytest
import yaml

from tests.conftest import ROOT
from tests.workflow.conftest import Project
from tests.workflow.slurm import finished_jobs, private_slurm, skip_without_slurm
from workflow.provenance import processor

pytestmark = [pytest.mark.workflow, pytest.mark.slurm]

# One method without, one with a program of its own, and one network; no more than Table 1 and 3.
METHODS = ["identity", "affine-niftyreg", "affine-net"]
SMALL = {
    "methods": METHODS,
    "pairs": {"longitudinal": 0, "cross-subject": 1},
    "table2": [],
    "curves": {"figure8": [], "figure10": []},
}
# The profile as users have it, but for a Slurm without accounting on a machine of one's own.
SLURM = (
    "--workflow-profile", "profiles/slurm", "--slurm-no-account", "--latency-wait", "10",
    "--slurm-status-command", "squeue", "--slurm-init-seconds-before-status-checks", "5",
)  # fmt: skip


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A run through Slurm and a local one in the same project, and the jobs that Slurm ran."""
    skip_without_slurm()
    project = Project(tmp_path_factory.mktemp("run") / "project")
    tiny = yaml.safe_load((ROOT / "config/tiny.yaml").read_text(encoding="utf-8"))
    for run in ("slurm", "local"):
        project.configure(run, **tiny | SMALL | {"run": run})
    with private_slurm(tmp_path_factory.mktemp("slurm") / "cluster") as environment:
        done = project.call(*SLURM, "--configfile", "slurm.yaml", env=environment)
        project.jobs = finished_jobs(environment)
    assert done.returncode == 0, done.output
    done = project.run("--configfile", "local.yaml")
    assert done.returncode == 0, done.output
    return project


def tables(project, name):
    """Return a table of the run through Slurm and of the local one."""
    return [
        pd.read_csv(project.folder / f"results/{run}/tables/{name}") for run in ("slurm", "local")
    ]


def seen(project, rule, what="node"):
    """Return where the jobs of a rule ran, or what else Slurm says of them."""
    return {job[what] for job in project.jobs if job["rule"].startswith(f"rule_{rule}")}


def test_tables_are_equal(project):
    slurm, local = tables(project, "metrics.csv")
    timed = slurm["metric"] == "seconds"
    assert set(slurm["method"]) == set(METHODS) and timed.any() and not timed.all()
    slurm.loc[timed, "value"] = local.loc[timed, "value"] = 0
    pd.testing.assert_frame_equal(slurm, local, check_exact=True)


def test_times_name_their_device(project):
    for table in tables(project, "table1.csv"):
        assert set(table["device"]) == {processor()} and table["seconds"].notna().all()
    for run in ("slurm", "local"):
        notes = (project.folder / f"results/{run}/tables/table1.md").read_text(encoding="utf-8")
        assert f"{processor()}, 1 thread." in notes


def test_jobs_went_where_they_belong(project):
    assert {job["state"] for job in project.jobs} == {"COMPLETED"}
    assert seen(project, "train") == seen(project, "register_wildcards_affine-net") == {"g1"}
    for rule in ("register_wildcards_affine-niftyreg", "register_wildcards_identity", "evaluate"):
        assert seen(project, rule) and seen(project, rule) <= {"n1", "n2"}
    for rule in ("preprocess", "check_cohort", "make_table1", "visual_check"):
        assert not seen(project, rule)


def test_jobs_have_the_time_of_their_rule(project):
    assert seen(project, "train", "limit") == {"12:00:00"}
    assert seen(project, "register_wildcards_affine-niftyreg", "limit") == {"11:00"}
