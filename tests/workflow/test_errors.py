"""What a user sees in the terminal, within seconds, when something is wrong."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys

import pytest
import yaml

from tests.conftest import ROOT

pytestmark = pytest.mark.workflow


def message_of(project, **changes):
    tiny = yaml.safe_load((ROOT / "config/tiny.yaml").read_text(encoding="utf-8"))
    project.configure("wrong", **tiny | changes)
    done = project.run("--configfile", "wrong.yaml")
    assert done.returncode != 0
    assert "Traceback" not in done.output and "Error in file" not in done.output
    assert not list((project.folder / "results").glob("*/tables/*"))
    return done.output


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"sed": 5}, ["unknown key 'sed' (did you mean 'seed'?)"]),
        ({"methods": ["sny"]}, ["methods[0]: no method 'sny' (did you mean 'syn'?)"]),
        (
            {"cohort": {"source": "manifest", "path": "no/such.csv"}},
            ["no/such.csv: no such file; cohort.path must name a CSV"],
        ),
        (
            {"split": {"test": 1.0, "validation": 0.0}},
            [
                "affine-net, ",
                "too few scans to train networks on (lower split.test",
                "cross-subject: no training pairs among the 0 training scans of 0 patients",
            ],
        ),
        ({"pairs": {"longitudinal": 99}}, ["longitudinal: found 2 couples", "asks for 99"]),
    ],
)
def test_faults_of_the_configuration(fresh_project, changes, parts):
    output = message_of(fresh_project, **changes)
    for part in parts:
        assert part in output


def test_a_key_twice_is_told(fresh_project):
    name = fresh_project.configure("twice", methods=["identity"])
    path = fresh_project.folder / name
    path.write_text(path.read_text(encoding="utf-8") + "run: a\nrun: b\n", encoding="utf-8")
    done = fresh_project.call("-n", "--configfile", name)
    assert done.returncode and "twice.yaml: key 'run' in line 3, and again in line 4" in done.output


def test_faults_of_the_files(fresh_project):
    """All faulty scans are named together, before anything is registered."""
    project = fresh_project
    tiny = yaml.safe_load((ROOT / "config/tiny.yaml").read_text(encoding="utf-8"))
    project.configure("labels", **tiny | {"run": "made"})
    knees = [
        f"results/made/raw/labels/{scan}.nii.gz" for scan in ("P000_00m_right", "P000_24m_right")
    ]
    made = project.run(*knees, "--configfile", "labels.yaml")
    assert made.returncode == 0, made.output
    data = project.folder / "data"
    data.mkdir()
    rows = ["subject,visit,side,label"]
    for name, label in zip(("A", "B", "copy"), (*knees, knees[1]), strict=True):
        shutil.copy(project.folder / label, data / f"{name}.nii.gz")
        rows.append(f"{name},1,right,{name}.nii.gz")
    whole = (project.folder / knees[0]).read_bytes()
    for name in ("C", "D"):
        (data / f"{name}.nii.gz").write_bytes(whole[: len(whole) // 3])
        rows.append(f"{name},1,right,{name}.nii.gz")
    (data / "cohort.csv").write_text("\n".join(rows))
    output = message_of(
        project,
        methods=["identity", "affine-niftyreg"],
        cohort={"source": "manifest", "path": "data/cohort.csv", "simulate": True},
        split={"test": 1.0, "validation": 0.0},
        pairs={"longitudinal": 0, "cross-subject": "all"},
    )
    for part in ("Scans with faults", "C_1_right", "D_1_right", "cannot be read as an image"):
        assert part in output
    assert "B_1_right: data/B.nii.gz has the voxels of copy_1_right: data/copy.nii.gz" in output
    assert "those of 5 of 5 scans are simulated" in output
    assert "A_1_right: " not in output
    assert "rule register" not in output and "rule make_" not in output
    assert output.count("cannot be read as an image") == 2  # each once, and after all else
    assert output.rstrip().splitlines()[-1].startswith("  - D_1_right: ")


def test_a_missing_tool(fresh_project):
    project = fresh_project
    path = project.folder / "baselines/identity/method.yaml"
    text = path.read_text(encoding="utf-8")
    path.write_text(f"{text}requires: {{programs: [no_such_program]}}\n", encoding="utf-8")
    output = message_of(project, methods=["identity"])
    assert "identity: program 'no_such_program' was found neither" in output


def test_after_ctrl_c_one_line_says_how_to_go_on(fresh_project):
    tiny = yaml.safe_load((ROOT / "config/tiny.yaml").read_text(encoding="utf-8"))
    fresh_project.configure("small", **tiny)  # a run that is not over when the signal comes late
    # As in a terminal: what a shell starts in the background takes no notice of Ctrl-C.
    begin = "import signal, runpy; signal.signal(signal.SIGINT, signal.default_int_handler)"
    run = subprocess.Popen(
        [sys.executable, "-c", f"{begin}; runpy.run_module('snakemake', run_name='__main__')",
         "--cores", "1", "--configfile", "small.yaml"],
        cwd=fresh_project.folder, encoding="utf-8", stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    for line in run.stdout:
        if line.startswith("localrule phantom_label"):
            break
    rest = None
    while rest is None:  # Python loses a signal that comes while it cleans up
        os.killpg(run.pid, signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            rest = run.communicate(timeout=20)[0]
    assert run.returncode != 0
    assert rest.splitlines()[-1] == "Stopped. The same command goes on where the run was."


def test_plan_may_follow_the_configuration(fresh_project):
    done = fresh_project.call("--cores", "1", "--configfile", "config/tiny.yaml", "plan")
    assert done.returncode == 0, done.output
    assert "core-hours" in done.output and "rule all" not in done.output
    assert not (fresh_project.folder / "results/tiny/.lock").exists()
