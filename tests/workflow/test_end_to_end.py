"""The whole chain on the tiny configuration, with a copied template and a failing method."""

import shutil

import pandas as pd
import pytest
import yaml

from tests.conftest import ROOT
from tests.workflow.conftest import Project

pytestmark = pytest.mark.workflow

FAILING = '''"""A method that fails on one direction only."""

from baselines.identity.register import register as keep


def register(fixed, moving, params, context):
    if fixed.GetOrigin() > moving.GetOrigin():
        raise RuntimeError("no overlap between the images")
    return keep(fixed, moving, params, context)
'''


KILL_ONCE = """
    import os, pathlib, signal
    if not pathlib.Path("killed").exists():
        pathlib.Path("killed").touch()
        os.killpg(0, signal.SIGKILL)
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A finished run of all classical methods, a copied template and a failing method."""
    project = Project(tmp_path_factory.mktemp("run") / "project")
    baselines = project.folder / "baselines"
    shutil.copytree(baselines / "_template", baselines / "mine")
    shutil.copytree(baselines / "_template", baselines / "failing")
    (baselines / "failing" / "register.py").write_text(FAILING)
    text = (baselines / "failing" / "method.yaml").read_text()
    (baselines / "failing" / "method.yaml").write_text(text.replace("My method", "Failing"))
    tiny = yaml.safe_load((ROOT / "config/tiny.yaml").read_text())
    methods = yaml.safe_load((ROOT / "config.yaml").read_text())["methods"]
    project.configure("mine", **tiny | {"methods": [*methods, "mine", "failing"]})
    done = project.run("--configfile", "mine.yaml")
    assert done.returncode == 0, done.output
    project.output = done.output
    project.results = project.folder / "results" / "tiny"
    return project


def test_every_output_is_there(project):
    for name in (
        "tables/metrics.csv", "tables/table1.csv", "tables/table1.md", "tables/table1.tex",
        "figures/figure5.png", "figures/figure5.pdf", "figures/figure7.png", "figures/figure7.pdf",
        "figures/checks/syn_longitudinal.png", "figures/checks/failing_cross-subject.png",
        "manifest.json", "cohort.json",
    ):  # fmt: skip
        assert (project.results / name).stat().st_size > 100, name
    assert "| Before registration |" in project.output
    assert "Tables: results/tiny/tables/" in project.output


def test_a_copied_template_is_in_the_table_and_the_figures(project):
    table = pd.read_csv(project.results / "tables/table1.csv").set_index("method")
    assert "My method" in table.index
    before, mine = table.loc["Before registration"], table.loc["My method"]
    assert mine["longitudinal dice"] == before["longitudinal dice"]
    assert mine["longitudinal n"] == mine["longitudinal N"] == 2
    values = pd.read_csv(project.results / "figures/figure5.csv")
    assert (values["label"] == "My method").sum() == 4


def test_failures_are_counted_and_explained(project):
    metrics = pd.read_csv(project.results / "tables/metrics.csv")
    own = metrics[(metrics["method"] == "failing") & (metrics["label"] == "mean")]
    assert len(own) == 4 and own["value"].isna().sum() == 2
    assert set(own["reason"].dropna()) == {"RuntimeError: no overlap between the images"}
    table = (project.results / "tables/table1.md").read_text()
    assert "| 1/2 1/2 |" in table
    assert "Failing: 2 pair(s) failed: RuntimeError: no overlap between the images" in table
    logs = [path.read_text() for path in (project.results / "logs/register/failing").iterdir()]
    assert any("RuntimeError: no overlap between the images" in log for log in logs)


def test_registration_helps(project):
    table = pd.read_csv(project.results / "tables/table1.csv").set_index("method")
    for task in ("longitudinal", "cross-subject"):
        assert (
            table.loc["affine-NiftyReg", f"{task} dice"]
            > table.loc["Before registration", f"{task} dice"]
        )


def test_fields_are_temporary(project):
    assert not list(project.results.glob("registrations/*/*/fields"))
    assert list(project.results.glob("registrations/*/*/outcomes.json"))


def test_a_second_run_has_nothing_to_do(project):
    done = project.run("--configfile", "mine.yaml")
    assert "Nothing to be done" in done.output


def test_a_changed_parameter_reruns_its_method_only(project):
    config = yaml.safe_load((project.folder / "mine.yaml").read_text())
    config["method_params"]["demons"]["iterations"] = 21
    project.configure("changed", **config)
    done = project.run("--configfile", "changed.yaml", "-n")
    assert "register_demons" in done.output
    for other in ("register_syn", "register_identity", "preprocess", "simulate", "phantom"):
        assert other not in done.output


def test_the_report_is_one_page(project):
    done = project.run("--configfile", "mine.yaml", "--report", "report.html")
    assert done.returncode == 0, done.output
    page = (project.folder / "report.html").read_text()
    assert "Figure 5" in page and "Table 1" in page and "Visual checks" in page


def test_a_killed_run_resumes(fresh_project):
    """What a killed run left is taken for nothing: the rerun makes it again and completes."""
    project = fresh_project
    tiny = yaml.safe_load((ROOT / "config/tiny.yaml").read_text())
    slow = project.folder / "baselines" / "mine"
    shutil.copytree(project.folder / "baselines" / "_template", slow)
    code = (slow / "register.py").read_text()
    marker = '    if params["unit_spacing"]:\n'
    assert marker in code
    (slow / "register.py").write_text(code.replace(marker, KILL_ONCE + marker))
    project.configure("kill", **tiny | {"methods": ["identity", "mine"]})
    killed = project.run("--configfile", "kill.yaml", own_group=True)
    assert killed.returncode != 0
    assert (project.folder / "killed").exists()
    project.run("--configfile", "kill.yaml", "--unlock")
    done = project.run("--configfile", "kill.yaml")
    assert done.returncode == 0, done.output
    table = pd.read_csv(project.folder / "results/tiny/tables/table1.csv").set_index("method")
    assert table.loc["My method", "cross-subject n"] == 2
