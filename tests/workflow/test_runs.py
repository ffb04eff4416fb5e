"""Runs beside one another."""

import subprocess
import sys

import pytest
import yaml

from tests.conftest import ROOT

pytestmark = pytest.mark.workflow


def test_two_runs_side_by_side_and_one_refused(fresh_project):
    project = fresh_project
    tiny = yaml.safe_load((ROOT / "config/tiny.yaml").read_text(encoding="utf-8"))
    for name in ("first", "other"):
        project.configure(name, **tiny | {"run": name, "methods": ["identity"]})
    first = subprocess.Popen(
        [sys.executable, "-m", "snakemake", "--cores", "1", "--configfile", "first.yaml"],
        cwd=project.folder, encoding="utf-8", stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    said = ""
    while "localrule" not in said:  # its first job begins
        said += first.stdout.readline()
    looked = project.call("--cores", "1", "plan", "--configfile", "first.yaml")
    assert looked.returncode == 0, looked.output
    looked = project.call("-n", "--configfile", "first.yaml")
    assert looked.returncode == 0, looked.output
    refused = project.call("--cores", "1", "--configfile", "first.yaml")
    assert refused.returncode != 0
    last = refused.output.rstrip().splitlines()[-1]
    assert last.startswith(f"results/first: a run of process {first.pid} on ")
    assert "localrule" not in refused.output  # it ran no job
    beside = project.call("--cores", "1", "--configfile", "other.yaml")
    assert beside.returncode == 0, beside.output
    said += first.communicate()[0]
    assert first.returncode == 0, said
    again = project.call("--cores", "1", "--configfile", "first.yaml")
    assert "Nothing to be done" in again.output
