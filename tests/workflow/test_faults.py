"""Kills, full and read-only disks, damaged files: nothing is lost, and the rerun ends the same.

`make test-faults` runs these; the suite leaves them out, as they take many minutes.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import pandas as pd
import pytest
import yaml

from tests.conftest import ROOT
from tests.workflow.conftest import Project
from workflow.referee.tidy import read_metrics

pytestmark = pytest.mark.faults

METHODS = ["identity", "affine-niftyreg", "affine-net"]
KILLS = 10
UNTIMED = ["method", "task", "fixed", "moving", "label", "metric"]


def small_project(folder):
    """Return a copy of the project with the tiny configuration and few methods."""
    project = Project(folder)
    tiny = yaml.safe_load((ROOT / "config/tiny.yaml").read_text(encoding="utf-8"))
    project.configure("small", **tiny | {"methods": METHODS})
    return project


def scores(project):
    """Return all scores but times, and the names of all outputs."""
    results = project.folder / "results/tiny"
    table = read_metrics(results / "tables/metrics.csv")
    kept = table[table["metric"] != "seconds"].sort_values(UNTIMED).reset_index(drop=True)
    parts = ("tables", "figures", "images", "labels", "networks", "registrations", "evaluation")
    files = {
        path.relative_to(results).as_posix()
        for part in parts
        for path in (results / part).rglob("*")
        if path.is_file()
    }
    return kept, files


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """A run that nothing disturbed: its project, its scores, the names of its outputs, seconds."""
    project = small_project(tmp_path_factory.mktemp("unbroken") / "project")
    started = time.monotonic()
    done = project.run("--configfile", "small.yaml")
    assert done.returncode == 0, done.output
    return project, *scores(project), time.monotonic() - started


def assert_same(project, expected, files):
    found, names = scores(project)
    pd.testing.assert_frame_equal(found, expected)
    assert names == files


def start(project):
    """Start a run in the background, with a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "snakemake", "--cores", "all", "--configfile", "small.yaml"],
        cwd=project.folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip


def test_ten_kills_at_random_moments_change_nothing(tmp_path, unbroken):
    _, expected, files, seconds = unbroken
    project, moments = small_project(tmp_path / "project"), random.Random(2019)
    kills = 0
    while kills < KILLS:
        run = start(project)
        try:
            # Every run begins with reading the workflow; a kill then would be no test.
            run.wait(timeout=6 + moments.uniform(0, seconds / 3))
        except subprocess.TimeoutExpired:
            os.killpg(run.pid, signal.SIGKILL)
            run.wait()  # and nobody gives --unlock
            kills += 1
        else:  # finished in spite of the kills: once more
            assert_same(project, expected, files)
            shutil.rmtree(project.folder / "results/tiny")
    done = project.run("--configfile", "small.yaml")
    assert done.returncode == 0, done.output
    assert_same(project, expected, files)
    assert not list((project.folder / "results").rglob("*.partial*"))


@contextmanager
def small_disk(folder, options):
    """Mount a file system of its own in a folder."""
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a file system")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def remount(folder, options):
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)


def test_a_full_disk_is_named_and_the_rerun_goes_on(tmp_path, unbroken):
    _, expected, files, _ = unbroken
    project = small_project(tmp_path / "project")
    with small_disk(project.folder / "results", "size=3m"):
        full = project.run("--configfile", "small.yaml")
        assert full.returncode != 0
        assert "No space left on device" in full.output
        remount(project.folder / "results", "size=500m")
        done = project.run("--configfile", "small.yaml")
        assert done.returncode == 0, done.output
        assert_same(project, expected, files)


def test_a_read_only_results_folder_is_named(tmp_path):
    project = small_project(tmp_path / "project")
    with small_disk(project.folder / "results", "size=100m"):
        remount(project.folder / "results", "ro")
        done = project.run("--configfile", "small.yaml")
        assert done.returncode != 0
        assert "Read-only file system" in done.output and "results/tiny" in done.output


def cut(path):
    """Cut a file short, as a full disk or a lost connection does, and keep its time."""
    times = path.stat()
    path.write_bytes(path.read_bytes()[: times.st_size // 2])
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def copy_of(whole, folder):
    """Return a project with all that the run of another one has made."""
    project = small_project(folder)
    made = [f"{whole.folder}/{name}" for name in ("results", ".snakemake")]
    subprocess.run(["cp", "-a", *made, str(project.folder)], check=True)
    return project


def unmake(results, method):
    """Delete a method's registrations and all that is made of them, so that they are due again."""
    for part in (f"registrations/{method}", f"evaluation/{method}", "tables"):
        shutil.rmtree(results / part)


def test_a_damaged_image_is_named_and_the_rest_goes_on(tmp_path, unbroken):
    """Without the file, which the user is told to delete, the run makes it again."""
    whole, expected, files, _ = unbroken
    project = copy_of(whole, tmp_path / "project")
    results = project.folder / "results/tiny"
    outcomes = sorted(results.glob("registrations/affine-niftyreg/*/outcomes.json"))
    scored = yaml.safe_load(outcomes[0].read_text(encoding="utf-8"))["registrations"][0]
    image = results / f"images/{scored['fixed']}.nii"
    cut(image)
    unmake(results, "affine-niftyreg")
    done = project.run("--configfile", "small.yaml")
    assert done.returncode != 0
    assert f"{image.relative_to(project.folder)}: cannot be read as an image" in done.output
    made = [path for path in outcomes if path.exists()]
    assert len(made) == 1  # the other task's pairs went on
    image.unlink()
    done = project.run("--configfile", "small.yaml")
    assert done.returncode == 0, done.output
    assert_same(project, expected, files)


def test_a_checkpoint_cut_short_is_named(tmp_path, unbroken):
    whole, _, _, _ = unbroken
    project = copy_of(whole, tmp_path / "project")
    results = project.folder / "results/tiny"
    cut(results / "networks/affine/both/model.pt")
    unmake(results, "affine-net")
    done = project.run("--configfile", "small.yaml")
    assert done.returncode != 0
    assert "model.pt: cannot be read as a checkpoint" in done.output
    assert "cut short" in done.output
