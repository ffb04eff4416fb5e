"""The project's own files agree with one another."""

import json
import re
import tomllib

import pytest
import yaml
from PIL import Image

from tests.conftest import ROOT
from tests.unit.test_config import leaves, merge
from tests.unit.test_documents import DOCUMENTS
from workflow.config import check_config
from workflow.referee import publish


def normal(lines):
    """Return name -> version of pinned requirements, names as pip compares them."""
    pins = (line.split("==") for line in lines if "==" in line)
    return {name.strip().lower().replace("_", "-"): version.strip() for name, version in pins}


def test_environment_pyproject_and_lock_are_in_step():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = normal(project["dependencies"] + project["optional-dependencies"]["test"])
    assert len(wanted) > 10
    lock = normal((ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines())
    conda = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))["dependencies"]
    assert normal(next(d["pip"] for d in conda if isinstance(d, dict))) == lock
    assert {name: lock.get(name) for name in wanted} == wanted


def test_the_lock_suits_every_machine():
    """No local builds (+cpu), no paths, no index: a user with a GPU gets the GPU build."""
    for line in (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines():
        assert line.startswith("#") or re.fullmatch(r"[A-Za-z0-9_.-]+==[A-Za-z0-9.]+", line), line


def test_the_readme_begins_with_two_commands_and_is_short():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "```\nmake benchmark\nmake test\n```" in readme
    prose = [line for line in readme.splitlines() if not line.startswith("|")]
    assert sum(len(line.split()) for line in prose) <= 900


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_and_links_of_documents_exist(path):
    text = path.read_text(encoding="utf-8")
    make = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"(?:^|`|&& )make ([a-z-]+)", text, re.MULTILINE):
        assert re.search(rf"^{target}:", make, re.MULTILINE), target
    for config in re.findall(r"\bconfig/[a-z0-9-]+\.yaml", text):
        assert (ROOT / config).is_file(), config
    for module in re.findall(r"python -m ((?:avsm|workflow|benchmarks|tests)[a-z_.]*)", text):
        place = ROOT.joinpath(*module.rstrip(".").split("."))
        assert place.with_suffix(".py").is_file() or (place / "__main__.py").is_file(), module
    for link in re.findall(r"\]\(([^):]+)\)", text):
        target, _, section = link.partition("#")
        place = path.parent / target if target else path
        assert place.exists(), link
        if section:
            headings = re.findall(r"^#+ (.*)", place.read_text("utf-8"), re.MULTILINE)
            names = [
                re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings
            ]
            assert section in names, link


def test_readme_example_configuration_is_valid(config):
    block = re.search(
        r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL
    )[1]
    check_config(merge(config, yaml.safe_load(block)))


def test_publish_copies_small_results_only(tmp_path):
    run = tmp_path / "results" / "mine"
    training = "networks/affine/both/training.json"
    for name in (
        "tables/table1.md", "tables/metrics.csv", "figures/figure5.png", "figures/figure5.pdf",
        "figures/checks/a.png", "figures/examples/figure4.png",
        training, "networks/affine/both/model.pt", "images/a.nii",
    ):  # fmt: skip
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".png"):
            Image.effect_noise((8, 8), 50).save(run / name)
        else:
            (run / name).write_text("x")
    (run / "manifest.json").write_text(json.dumps({"config": {"cohort": {"source": "phantom"}}}))
    copies = publish.publish("mine", tmp_path)
    assert len(copies) == 6
    (run / "manifest.json").write_text(json.dumps({"config": {"cohort": {"source": "manifest"}}}))
    copies = publish.publish("mine", tmp_path)
    names = {str(path.relative_to(tmp_path / "results/reference/mine")) for path in copies}
    assert names == {
        "tables/table1.md",
        "tables/metrics.csv.gz",
        "figures/figure5.png",
        training,
        "manifest.json",
    }
    with pytest.raises(ValueError, match="finish the run first"):
        publish.publish("other", tmp_path)


def test_reference_results_are_small():
    files = [path for path in (ROOT / "results/reference").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 4e6


def test_files_stay_short():
    """A file of more than 360 lines holds more than one idea."""
    code = [
        path for part in ("workflow", "avsm", "baselines") for path in (ROOT / part).rglob("*.py")
    ]
    assert len(code) > 30
    assert not [path for path in code if len(path.read_text(encoding="utf-8").splitlines()) > 360]


def test_the_papers_experiment_has_the_papers_settings(config):
    def read(name):
        return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))

    oai = read("config/oai.yaml")
    paper = read(oai["builds_on"])
    assert paper["training"]["start"] == "scratch"
    merged = merge(merge(config, paper), oai)
    assert merge(merged, paper) == merged, "it changes none of the paper's settings"
    assert merged["preprocessing"]["size"] == [80, 192, 192]
    assert merged["pairs"] | {"list": None} == {
        "longitudinal": "all", "cross-subject": 150, "list": None
    }  # fmt: skip


def test_no_key_is_in_two_configurations_where_one_can_build_on_the_other():
    """Those that are used on top of others repeat what they must."""
    on_top = {"paper-settings", "long-budgets", "paper-grid", "untrained", "tiny", "ablation"}
    for path in sorted((ROOT / "config").glob("*.yaml")):
        own = yaml.safe_load(path.read_text(encoding="utf-8"))
        if path.stem not in on_top:
            default = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))
            if base := own.pop("builds_on", None):
                default = merge(default, yaml.safe_load((ROOT / base).read_text(encoding="utf-8")))
            same = [leaf for leaf in leaves(own) if leaf in set(leaves(default))]
            found = [leaf for leaf in same if entry(own, leaf) == entry(default, leaf)]
            assert not found, (path.name, found)


def entry(value, leaf):
    for key in leaf:
        value = value[key]
    return value
