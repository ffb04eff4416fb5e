"""The whole chain on the tiny configuration, with a method of one file and one that fails."""

import json
import re
import shutil
from collections import Counter

import pandas as pd
import pytest
import SimpleITK as sitk
import yaml

from avsm.fields import warp_image
from tests.conftest import ROOT
from tests.workflow.browser import look_at
from tests.workflow.conftest import Project
from workflow.referee.metrics import dice
from workflow.referee.tidy import read_metrics

pytestmark = pytest.mark.workflow

FAILING = '''"""A method that fails on one direction only."""

from baselines._template.register import register as keep


def register(fixed, moving, params, context):
    if fixed.GetOrigin() > moving.GetOrigin():
        raise RuntimeError("no overlap between the images")
    return keep(fixed, moving, params, context)
'''


KILL_AT_THE_SECOND = """
    import os, pathlib, signal
    with open("calls", "a") as calls:
        calls.write("x")
    if pathlib.Path("calls").read_text(encoding="utf-8") == "xx":
        os.killpg(0, signal.SIGKILL)
"""

# Rows that differ from others in parameters or networks only; the contract tests run them too.
LEFT_OUT = {"affine-opt", "voxelmorph", "avsm-refined"}
# Methods of the tiny configuration's Table 2 and curves alone.
OTHERS = ["ablation-8", "avsm-1", "affine-1", "affine-2"]


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A finished run of most methods, a method of one file and a failing one."""
    project = Project(tmp_path_factory.mktemp("run") / "project")
    baselines = project.folder / "baselines"
    (baselines / "mine").mkdir()
    template = (baselines / "_template/register.py").read_text(encoding="utf-8")
    assert len(template.splitlines()) <= 15
    (baselines / "mine/register.py").write_text(template, encoding="utf-8")
    shutil.copytree(baselines / "_template", baselines / "failing")
    (baselines / "failing" / "register.py").write_text(FAILING)
    # A rule of its own, as docs/contract.md has it.
    (baselines / "failing/rule.smk").write_text(
        "use rule register as register_failing with:\n    wildcard_constraints:\n"
        "        method=ids_of('failing'),\n    threads: 2\n"
    )
    text = (baselines / "failing" / "method.yaml").read_text(encoding="utf-8")
    (baselines / "failing" / "method.yaml").write_text(text.replace("My method", "Failing"))
    tiny = yaml.safe_load((ROOT / "config/tiny.yaml").read_text(encoding="utf-8"))
    methods = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))["methods"]
    project.methods = [name for name in methods if name not in LEFT_OUT]
    project.methods += ["mine", "failing", "before-in-mm"]
    in_mm = {"of": "identity", "label": "Before, in mm", "parameters": {"unit_spacing": False}}
    project.configure(
        "mine",
        **tiny | {"methods": project.methods} | {"method_rows": {"before-in-mm": in_mm}},
    )
    project.tell_jobs(False)
    done = project.run("--configfile", "mine.yaml")
    assert done.returncode == 0, done.output
    project.tell_jobs(True)
    project.output = done.output
    project.results = project.folder / "results" / "tiny"
    return project


def test_every_output_is_there(project):
    for name in (
        "tables/metrics.csv", "tables/table1.csv", "tables/table1.md", "tables/table1.tex",
        "tables/table3.csv", "tables/table3.md", "tables/table3.tex", "tables/significance.csv",
        "tables/fairness.md", "tables/fairness.csv", "tables/claims.md", "tables/claims.csv",
        "tables/table2.csv", "tables/table2.md", "tables/table2.tex", "tables/figure11.md",
        "tables/table1.html", "tables/table2.html", "tables/table3.html", "tables/fairness.html",
        "tables/significance.html", "tables/claims.html", "tables/figure11.html",
        "figures/figure5.png", "figures/figure5.pdf", "figures/figure7.png", "figures/figure7.pdf",
        "figures/examples/figure4.png", "figures/figure9.png", "figures/figure9.csv",
        "figures/examples/figure6.png", "figures/figure8.png", "figures/figure8.csv",
        "figures/examples/figure12.csv", "figures/examples/figure13.pdf", "figures/figure10.png",
        "figures/ranking.png", "figures/ranking.pdf", "figures/ranking.csv",
        "figures/checks/syn_longitudinal.png", "figures/checks/failing_cross-subject.png",
        "networks/momentum/both/model.pt", "networks/momentum/both/history.csv",
        "networks/affine/both/history.png", "manifest.json", "cohort.json",
    ):  # fmt: skip
        assert (project.results / name).stat().st_size > 100, name


def test_the_terminal_is_quiet_and_says_results(project):
    lines = project.output.splitlines()
    assert len(lines) <= 200 and max(map(len, lines)) <= 160, project.output
    told = "\n".join(lines)
    assert re.search(
        r"\d\d:\d\d syn, longitudinal: 2 of 2 pairs, Dice [\d.]+, [\d.]+ s a pair", told
    )
    assert re.search(r"failing, longitudinal: 1 of 2 pairs", told)
    assert re.search(r"AVSM affine network, both: trained for \d+ steps in \d+ s, validation", told)
    assert "Table 1: results/tiny/tables/table1.csv" in told
    assert re.search(r"\n +Before registration +[\d.]+ +[\d.]+ +\d+ +[\d.]+\n", told)
    assert "Tables: results/tiny/tables/" in told


def test_a_method_of_one_file_is_in_the_table_and_the_figures(project):
    """The template's, which moves nothing; its label is the folder's name."""
    table = pd.read_csv(project.results / "tables/table1.csv").set_index("method")
    before, mine = table.loc["Before, in mm"], table.loc["mine"]
    assert mine["longitudinal dice"] == before["longitudinal dice"]
    assert mine["longitudinal n"] == mine["longitudinal N"] == 2
    values = pd.read_csv(project.results / "figures/figure5.csv")
    assert (values["label"] == "mine").sum() == 4


def test_a_method_with_other_settings_is_a_row_of_its_own(project):
    table = pd.read_csv(project.results / "tables/table1.csv").set_index("method")
    before, in_mm = table.loc["Before registration"], table.loc["Before, in mm"]
    assert in_mm["longitudinal n"] == 2
    assert in_mm["longitudinal dice"] != before["longitudinal dice"]


def test_failures_are_counted_and_explained(project):
    metrics = pd.read_csv(project.results / "tables/metrics.csv")
    own = metrics[(metrics["method"] == "failing") & (metrics["label"] == "mean")]
    own = own[own["metric"] == "dice"]
    assert len(own) == 4 and own["value"].isna().sum() == 2
    assert set(own["reason"].dropna()) == {"RuntimeError: no overlap between the images"}
    table = (project.results / "tables/table1.md").read_text(encoding="utf-8")
    assert table.count("| 1/2 |") == 2
    assert "Failing: 2 pair(s) failed: RuntimeError: no overlap between the images" in table
    logs = [
        path.read_text(encoding="utf-8")
        for path in (project.results / "logs/register/failing").iterdir()
    ]
    assert any("RuntimeError: no overlap between the images" in log for log in logs)


def test_registration_helps(project):
    """By the method that gains most on tiny images, and by less than it gains on any pair.

    That was 16 to 49 points on 24 pairs of two populations; what others gain varies with the
    processor from nothing to twenty.
    """
    table = pd.read_csv(project.results / "tables/table1.csv").set_index("method")
    for task in ("longitudinal", "cross-subject"):
        before, after = (
            table.loc[method, f"{task} dice"] for method in ("Before registration", "vSVF-opt")
        )
        assert after > before + 10


def test_what_is_of_the_paper_alone_can_be_left_out(project):
    """As it is with other cohorts than the phantom."""
    config = yaml.safe_load((project.folder / "mine.yaml").read_text(encoding="utf-8"))
    project.configure("other", **config | {"paper": False})
    for name, expected in (("mine", True), ("other", False)):
        output = project.run("--configfile", f"{name}.yaml", "-n", "--forceall").output
        assert "make_figure11" in output
        assert ("claims.csv" in output) == ("figure9.png" in output) == expected


def test_fields_and_states_are_temporary(project):
    assert not list(project.results.glob("registrations/*/*/fields"))
    assert not list(project.results.glob("networks/*/*/state"))
    assert list(project.results.glob("registrations/*/*/outcomes.json"))


def test_a_second_run_has_nothing_to_do(project):
    done = project.run("--configfile", "mine.yaml")
    assert "Nothing to be done" in done.output


def registered(output):
    """Return the methods with which a dry run would register, and the names of its other rules."""
    blocks = re.findall(
        r"^(?:local)?(?:rule|checkpoint) (\w+):\n((?:    .*\n)*)", output, re.MULTILINE
    )
    methods = {
        re.search(r"wildcards: method=([^,\n]+)", block)[1]
        for rule, block in blocks
        if rule.startswith("register")
    }
    return methods, {rule for rule, _ in blocks if not rule.startswith("register")}


def test_a_changed_parameter_reruns_its_method_only(project):
    config = yaml.safe_load((project.folder / "mine.yaml").read_text(encoding="utf-8"))
    config["method_params"]["demons"]["iterations"] = 21
    project.configure("changed", **config)
    done = project.run("--configfile", "changed.yaml", "-n")
    methods, rules = registered(done.output)
    assert methods == {"demons"}
    assert not {"preprocess", "phantom_label"} & rules


def test_an_edited_wrapper_reruns_the_methods_that_use_it(project):
    wrapper = project.folder / "baselines/niftyreg/register.py"
    text = wrapper.read_text(encoding="utf-8")
    wrapper.write_text(text + "# edited\n")
    try:
        output = project.run("--configfile", "mine.yaml", "-n").output
    finally:
        wrapper.write_text(text)
    methods, rules = registered(output)
    assert {"affine-niftyreg", "niftyreg-nmi", "niftyreg-lncc", "demons"} <= methods
    assert not {"syn", "identity", "mine"} & methods and "preprocess" not in rules


def test_labels_are_kept_from_methods_and_networks(project):
    """What jobs are given: test images to register, labels only of scans to validate on."""
    splits = json.loads((project.results / "cohort.json").read_text(encoding="utf-8"))["splits"]
    output = project.run("--configfile", "mine.yaml", "-n", "--forceall").output
    pattern = r"^(?:local)?rule (train|training_part|register|register_\S+):\n    input: (.*)$"
    jobs = re.findall(pattern, output, re.MULTILINE)
    often = Counter(rule.split("_")[0] for rule, _ in jobs)
    # What vSVF-opt starts from runs as well.
    assert often["register"] == 2 * len({*project.methods, *OTHERS, "affine-opt"})
    assert (often["train"], often["training"]) == (4, 1)
    for rule, files in jobs:
        seen = {
            kind: {splits[name.split("_")[0]] for name in re.findall(rf"/{kind}/(\S+)\.nii", files)}
            for kind in ("images", "labels")
        }
        if rule == "training_part":
            assert seen == {"images": {"train", "validation"}, "labels": {"validation"}}
        elif rule == "train":  # by way of the manifest
            assert seen == {"images": set(), "labels": set()}
        else:
            assert seen == {"images": {"test"}, "labels": set()} and "label" not in files
    manifest = pd.read_csv(project.results / "training/both/manifest.csv")
    assert {splits[name] for name in manifest["subject"]} == {"train", "validation"}
    assert set(manifest["split"]) == {"train", "validation"}
    assert set(manifest[manifest["label"].notna()]["split"]) == {"validation"}


def test_the_manifest_names_versions_and_settings(project):
    manifest = json.loads((project.results / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["versions"]["reg_aladin"].startswith("1.5")
    assert {"python", "antspyx", "simpleitk"} <= set(manifest["versions"])
    assert manifest["seed"] == manifest["config"]["seed"] == 2019
    assert sorted(m["id"] for m in manifest["methods"][-5:]) == sorted(["before-in-mm", *OTHERS])
    trained = {training["network"]: training for training in manifest["trainings"]}
    assert {"affine", "momentum"} <= set(trained)
    assert trained["affine"]["steps"] == 2 and trained["affine"]["pairs"] == "both"
    assert [n["needs"] for n in manifest["networks"] if n["id"] == "momentum"] == [["affine"]]
    table = (project.results / "tables/table1.md").read_text(encoding="utf-8")
    assert "Networks: AVSM affine network, both tasks: 2 steps, " in table


def test_a_changed_network_parameter_reruns_what_builds_on_it(project):
    config = yaml.safe_load((project.folder / "mine.yaml").read_text(encoding="utf-8"))
    settings = config["network_params"]["momentum"]["settings"] | {"momentum.rate": 1e-4}
    config["network_params"]["momentum"] = {"settings": settings}
    project.configure("changed", **config)
    done = project.run("--configfile", "changed.yaml", "-n")
    methods, rules = registered(done.output)
    assert "network=momentum" in done.output and "avsm-3step" in methods
    # affine-net registers again too: Figure 4 shows its fields, which are temporary.
    assert "network=affine" not in done.output
    assert "demons" not in methods and "preprocess" not in rules


def test_kept_fields_reproduce_the_scores(project):
    """`keep_fields` keeps them, and labels warped by SimpleITK through one give the same Dice."""
    config = yaml.safe_load((project.folder / "mine.yaml").read_text(encoding="utf-8"))
    project.configure(
        "kept", **config | {"methods": ["affine-niftyreg"], "keep_fields": True, "run": "kept"}
    )
    done = project.run("--configfile", "kept.yaml")
    assert done.returncode == 0, done.output
    results = project.folder / "results/kept"
    fields = list(results.glob("registrations/*/*/fields/*.nii"))
    assert len(fields) == 4
    metrics = read_metrics(results / "tables/metrics.csv")
    fixed, moving = fields[0].stem.split("__")
    label = sitk.ReadImage(str(results / f"labels/{moving}.nii"))
    warped = sitk.GetArrayFromImage(warp_image(label, sitk.ReadImage(str(fields[0])), label=True))
    truth = sitk.GetArrayFromImage(sitk.ReadImage(str(results / f"labels/{fixed}.nii")))
    scores = metrics[(metrics["fixed"] == fixed) & (metrics["moving"] == moving)]
    found = scores.set_index(["label", "metric"])["value"]["femoral cartilage", "dice"]
    assert found == pytest.approx(dice(warped == 2, truth == 2), abs=0.01)
    _score_again(project, results)


def _score_again(project, results):
    """Another measure is taken of kept fields: nothing is registered again."""
    config = yaml.safe_load((project.folder / "kept.yaml").read_text(encoding="utf-8"))
    project.configure("again", **config | {"evaluation": {"symmetry_margin": 2}})
    before = read_metrics(results / "tables/metrics.csv")
    done = project.run("--configfile", "again.yaml")
    assert done.returncode == 0, done.output
    assert "evaluate" in done.output and "register_affine-niftyreg" not in done.output
    after = read_metrics(results / "tables/metrics.csv")
    changed = before["value"].ne(after["value"]) & before["value"].notna()
    assert set(before[changed]["metric"]) == {"symmetry", "inverse_error"}


OPEN_EVERYTHING = """
  const links = () => [...document.querySelectorAll("#app a")];
  const press = async link => { link.click(); await pause(); };
  const shown = {};
  await pause();
  for (const category of Object.keys(categories)) {
    await press(links().find(link => link.textContent.trim() === category));
    const rows = document.querySelectorAll("#app tbody tr").length;
    shown[category] = {};
    for (let place = 0; place < rows; place++) {
      const row = document.querySelectorAll("#app tbody tr")[place];
      await press(row.querySelector("a"));
      const image = document.querySelector("#app .p-3 > img");
      const frame = document.querySelector("#app iframe");
      shown[category][row.textContent] =
        image ? image.naturalWidth : frame && frame.src.startsWith("data:text/html") && "page";
    }
    await press(links().find(link => link.textContent.trim() === "Results"));
  }
  return shown;
"""


GRAPH = """
  await pause();
  const rules = rulegraph_spec.data[0].values.map(node => node.rule);
  return {rules, width: document.querySelector("#app canvas").width};
"""


def test_the_report_is_one_page_that_shows_everything(project):
    done = project.run("--configfile", "mine.yaml", "--report", "report.html")
    assert done.returncode == 0, done.output
    report = project.folder / "report.html"
    shown, problems = look_at(report, OPEN_EVERYTHING, project.folder)
    assert problems == []
    tables = {"Table 1", "Table 2", "Table 3", "All comparisons", "The paper's claims"}
    assert shown["Tables"] == dict.fromkeys(tables, "page")
    assert shown["Fairness"] == {"What each method was given": "page"}
    assert shown["Figures"].pop("Figure 11") == "page"
    figures = {f"Figure {number}" for number in (5, 7, 8, 9, 10)} | {"Ranking"}
    assert set(shown["Figures"]) == figures and min(shown["Figures"].values()) > 300
    assert {f"Figure {number}" for number in (4, 6, 12, 13)} == set(shown["Examples"])
    assert len(shown["Visual checks"]) == len(project.methods)  # a switch shows the other task's
    assert min(shown["Visual checks"].values()) > 300
    assert len(shown["Training"]) == 4 and min(shown["Training"].values()) > 300
    graph, problems = look_at(report, GRAPH, project.folder)
    assert problems == [] and graph["width"] > 300
    own = {"preprocess", "train", "register", "register_failing", "evaluate"}
    assert own <= set(graph["rules"])


def test_a_killed_run_resumes(fresh_project):
    """What a killed run left is taken for nothing: the rerun makes it again and completes."""
    project = fresh_project
    tiny = yaml.safe_load((ROOT / "config/tiny.yaml").read_text(encoding="utf-8"))
    slow = project.folder / "baselines" / "mine"
    shutil.copytree(project.folder / "baselines" / "_template", slow)
    code = (slow / "register.py").read_text(encoding="utf-8")
    marker = "    return Registration("
    assert marker in code
    (slow / "register.py").write_text(code.replace(marker, KILL_AT_THE_SECOND + marker))
    project.configure("kill", **tiny | {"methods": ["identity", "mine"]})
    killed = project.run("--configfile", "kill.yaml", own_group=True)
    assert killed.returncode != 0
    assert (project.folder / "calls").read_text(encoding="utf-8") == "xx"
    labels = (project.folder / "results/tiny/raw/labels").iterdir()
    finished = {path: path.stat().st_mtime_ns for path in labels}
    assert len(finished) >= 3
    done = project.run("--configfile", "kill.yaml")
    assert done.returncode == 0, done.output
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    table = pd.read_csv(project.folder / "results/tiny/tables/table1.csv").set_index("method")
    assert table.loc["My method", "cross-subject n"] == 2
