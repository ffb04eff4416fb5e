"""Configuration and method descriptions: everything wrong is refused by name."""

import copy
import shutil
import subprocess
import sys

import pytest
import yaml

from avsm.errors import UserError
from tests.conftest import ROOT, available, merge
from workflow.config import check_config
from workflow.contract.descriptions import load_methods, load_networks
from workflow.contract.folders import BASELINES, load_function
from workflow.contract.programs import find_program, run_program
from workflow.run import Run, check_requirements, load_run
from workflow.schema import read_yaml

INF, NAN = float("inf"), float("nan")


@pytest.mark.parametrize(
    ("cohort", "asked", "expected"),
    [("phantom", None, True), ("phantom", False, False), ("manifest", None, False),
     ("manifest", True, True), ("decathlon", None, False)],
)  # fmt: skip
def test_the_paper_is_compared_with_on_knees_alone(config, cohort, asked, expected):
    config["cohort"]["source"] = cohort
    assert Run(config | {"paper": asked}, {}, [], {}, {}).paper == expected


def test_configurations_of_oai_ask_for_the_paper(config):
    for path in sorted((ROOT / "config").glob("*.yaml")):
        own = yaml.safe_load(path.read_text(encoding="utf-8"))
        cohort = own.get("cohort", {})
        if cohort.get("source", "phantom") != "phantom":
            assert own.get("paper") == (True if path.stem.startswith("oai") else None), path


@pytest.mark.parametrize("name", ["config.yaml", *map(str, (ROOT / "config").glob("*.yaml"))])
def test_shipped_configurations_are_valid(config, name):
    change = yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))
    merged = merge(config, change)
    check_config(merged)
    load_networks(merged, load_methods(merged).values())


def leaves(value, path=()):
    if isinstance(value, dict) and value:
        for key, entry in value.items():
            yield from leaves(entry, (*path, key))
    else:
        yield path


def test_every_leaf_is_checked(config):
    """A value of a wrong type is refused wherever it stands, and so is a misspelt key."""
    for path in leaves(config):
        for fault in ("type", "key"):
            wrong = copy.deepcopy(config)
            parent = wrong
            for key in path[:-1]:
                parent = parent[key]
            if fault == "type":
                parent[path[-1]] = {"no": "such"}
            else:
                parent[path[-1] + "x"] = parent.pop(path[-1])
            with pytest.raises(UserError):
                check_config(wrong)
                load_networks(wrong, load_methods(wrong).values())


def test_a_value_that_fits_no_alternative_is_told_all(config):
    config["pairs"]["longitudinal"] = "All"
    with pytest.raises(UserError, match=r"found 'All', expected integer or all"):
        check_config(config)


def test_cost_grows_with_a_parameter(config):
    """SyN's is stated for 4,520 iterations at four levels."""
    config["method_params"] = {"syn": {"iterations": [100, 10, 3, 0]}}
    config["table2"], config["curves"] = [], {}
    config["methods"] = ["syn", "niftyreg-nmi"]
    methods = load_methods(config)
    assert methods["syn"].cost == pytest.approx(6500 * 113 / 4520)
    assert methods["niftyreg-nmi"].cost == 16 and "affine-niftyreg" in methods


def test_misspelt_keys_are_all_named(config):
    config["sede"] = config.pop("seed")
    config["preprocessing"]["mirorr_left"] = True
    with pytest.raises(UserError) as caught:
        check_config(config)
    message = str(caught.value)
    assert "unknown key 'sede' (did you mean 'seed'?)" in message
    assert "key 'seed' is missing" in message
    assert "preprocessing: unknown key 'mirorr_left' (did you mean 'mirror_left'?)" in message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cohort": {"source": "manifset"}}, "did you mean 'manifest'"),
        ({"preprocessing": {"size": [40, 96]}}, "expected at least 3 entries"),
        ({"keep_fields": "yes"}, "found 'yes', expected boolean"),
        ({"cohort": {"path": "a.csv"}}, "source phantom, which reads no file"),
        ({"cohort": {"source": "manifest"}}, "source manifest needs a path"),
        ({"split": {"test": 0.9, "validation": 0.2}}, "together exceed 1"),
        ({"preprocessing": {"percentiles": [90, 10]}}, "expected the lower first"),
        ({"evaluation": {"symmetry_margin": 20}}, "leaves nothing of the shortest axis"),
        ({"run": "reference"}, "take another name"),
        ({"training": {"pairs": "togehter"}}, "did you mean 'together'"),
        ({"training": {"threads": 0}}, "training.threads: found 0, expected at least 1"),
        ({"labels": {"structures": [{"name": "mean", "value": 1}]}}, "'mean' is taken"),
        ({"training": {"couples": {"longitudinal": 3}}}, "phantom.training draws pairs of people"),
        ({"preprocessing": {"size": [40.0, 96, 96]}}, r"size\[0\]: found 40.0, expected integer"),
        ({"evaluation": {"symmetry_margin": 4.0}}, "symmetry_margin: found 4.0, expected integer"),
        ({"shard_size": {"syn": 2.0}}, r"shard_size.syn: found 2.0, expected integer"),
        ({"seed": 2**31}, "seed: found 2147483648, expected at most 2147483647"),
        ({"seed": True}, "seed: found True, expected integer"),
        ({"time_limit_minutes": INF}, "time_limit_minutes: found inf, expected finite number"),
        ({"time_limit_minutes": NAN}, "time_limit_minutes: found nan, expected finite number"),
        ({"split": {"test": NAN}}, "split.test: found nan, expected finite number"),
        ({"preprocessing": {"spacing_mm": [1, INF, 1]}}, r"found \[1, inf, 1\]|spacing_mm\[1\]"),
        ({"preprocessing": {"percentiles": [50, 50]}}, "expected the lower first"),
        ({"labels": {"merge": [{"from": 7, "to": 1}, {"from": 7, "to": 3}]}}, "same from occurs"),
        ({"run": "x" * 101}, "expected text that matches"),
    ],
)
def test_wrong_values(config, change, message):
    with pytest.raises(UserError, match=message):
        check_config(merge(config, change))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("run: a\nseed: 1\nrun: b\n", "key 'run' in line 1, and again in line 3; expected once"),
        ("training: {threads: 1, threads: 2}\n", "key 'threads' in line 1, and again in line 1"),
        ("methods:\n  - {a: 1,\n     'a': 2}\n", "key 'a' in line 2, and again in line 3"),
        ("size: [1,\n", "expected YAML in UTF-8"),
    ],
)
def test_keys_that_come_twice_are_refused(tmp_path, text, message):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=f"{path}: {message}"):
        read_yaml(path)


def test_merged_keys_may_be_changed(tmp_path):
    """That is no key twice, at no depth and in no order."""
    text = "x: &x {a: 1, b: 2}\nz: {deep: &y {<<: *x, a: 3}}\nw: {<<: *y, b: 4}\n1: one\n'1': two\n"
    path = tmp_path / "mine.yaml"
    path.write_text("\ufeff" + text.replace("\n", "\r\n"), encoding="utf-8")
    assert read_yaml(path) == yaml.safe_load(text)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"affine.epocs": 3}, "no setting 'affine.epocs' .did you mean 'affine.epochs'"),
        ({"affine": {"rate": "fast"}}, "affine.rate: expected a number, found 'fast'"),
        ({"affine.rate": INF}, "affine.rate: expected a number, found inf"),
        ({"affine.epochs": 3.0}, "affine.epochs: expected a whole number, found 3.0"),
        ({"model.solver_steps": 2.5}, "solver_steps: expected a whole number or null, found 2.5"),
        ({"model.solver_steps": 0}, "solver_steps: expected at least 1, found 0"),
        ({"model.solver": "rk5"}, "model.solver: .* found 'rk5' .did you mean 'rk4'"),
        ({"model.precision": "half"}, "model.precision: expected one of auto, float32, bfloat16"),
        ({"model.sigmas": [0.1]}, "model.sigmas, model.weights: expected as many of both"),
        ({"momentum.phases": [{"scael": 1}]}, "momentum.phases: no setting 'scael'"),
    ],
)
def test_settings_of_networks_are_checked_before_a_run(plain_config, settings, message):
    """All are those of the one library, whatever network they are given to."""
    for network in ("affine", "momentum", "voxelmorph"):
        plain_config["network_params"] = {network: {"settings": settings}}
        with pytest.raises(UserError, match=f"network_params.{network}.settings: .*{message}"):
            load_run(plain_config)


def test_grids_that_are_too_small_for_a_network_are_told(plain_config):
    """Its coarsest images have 8 voxels a side; the preset small's are of half the resolution."""
    plain_config["methods"] = ["affine-net"]
    plain_config["training"]["start"] = "scratch"
    plain_config["evaluation"]["symmetry_margin"] = 2
    plain_config["preprocessing"]["size"] = [40, 16, 15]
    with pytest.raises(UserError, match=r"found \[40, 16, 15\], expected at least 16 voxels"):
        load_run(plain_config)
    plain_config["preprocessing"]["size"] = [40, 16, 16]
    load_run(plain_config)


def test_plans_need_no_pytorch():
    """Each job reads the plan again."""
    done = subprocess.run(
        [sys.executable, "-c", "import sys, workflow.run; print({*sys.modules} & {'torch', "
        "'SimpleITK', 'pandas', 'ants'})"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout.strip() == "set()"


def test_unknown_methods_are_named_with_the_nearest(plain_config):
    plain_config["methods"] = ["identity", "sny"]
    plain_config["method_params"] = {"demosn": {}}
    with pytest.raises(UserError) as caught:
        load_methods(plain_config)
    assert "methods[1]: no method 'sny' (did you mean 'syn'?)" in str(caught.value)
    assert "method_params: no method 'demosn' (did you mean 'demons'?)" in str(caught.value)


def test_wrong_method_parameters(plain_config):
    plain_config["method_params"] = {"demons": {"iteratons": 5}, "syn": {"iterations": "100"}}
    with pytest.raises(UserError) as caught:
        load_methods(plain_config)
    assert "method_params.demons: unknown key 'iteratons' (did you mean" in str(caught.value)
    assert "method_params.syn: iterations: found '100', expected array" in str(caught.value)


def test_parameters_are_defaults_with_changes(plain_config):
    plain_config["method_params"] = {"demons": {"iterations": 7}}
    plain_config["shard_size"] = {"demons": 2}
    method = load_methods(plain_config)["demons"]
    assert method.params["iterations"] == 7 and method.defaults["iterations"] == 500
    assert method.params["sigma"] == method.defaults["sigma"] == 1.2
    assert method.shard_size == 2


def test_folders_without_code_or_with_an_underscore_are_no_methods():
    found = available("method", BASELINES)
    assert "demons" in found
    assert not {"_template", "tools", "networks"} & set(found)


def test_a_method_needs_one_file(tmp_path, plain_config):
    (tmp_path / "mine").mkdir()
    shutil.copy(ROOT / "baselines/_template/register.py", tmp_path / "mine")
    plain_config |= {"methods": ["mine"], "method_params": {}}
    method = load_methods(plain_config, tmp_path)["mine"]
    assert (method.label, method.kind, method.params, method.cost) == (
        "mine",
        "classical",
        {},
        None,
    )
    assert method.requires == {"modules": [], "programs": []} and method.shard_size == 4


def test_missing_tools_are_all_named(tmp_path, plain_config):
    folder = tmp_path / "mine"
    shutil.copytree(ROOT / "baselines/_template", folder)
    requires = {"modules": ["no_such_module"], "programs": ["no_such_program"]}
    (folder / "method.yaml").write_text(yaml.safe_dump({"requires": requires}))
    plain_config |= {"methods": ["mine"], "method_params": {}}
    with pytest.raises(UserError) as caught:
        check_requirements(load_methods(plain_config, tmp_path).values(), [])
    assert "mine: Python module 'no_such_module' is not installed" in str(caught.value)
    assert "mine: program 'no_such_program' was found neither" in str(caught.value)


def test_a_program_that_cannot_start_is_missing(tmp_path, plain_config):
    program = tmp_path / "reg_aladin"
    program.write_text("#!/bin/sh\necho 'libgomp.so.1: cannot open shared object file'; exit 127\n")
    program.chmod(0o755)
    plain_config |= {"methods": ["affine-niftyreg"]}
    with pytest.raises(UserError, match="apt-get install libgomp1"):
        check_requirements(load_methods(plain_config).values(), [str(tmp_path)])


def test_two_methods_with_one_label(tmp_path, plain_config):
    for name in ("one", "two"):
        shutil.copytree(ROOT / "baselines/_template", tmp_path / name)
    plain_config |= {"methods": ["one", "two"], "method_params": {}}
    with pytest.raises(UserError, match=r"label 'My method' is that of one and"):
        load_methods(plain_config, tmp_path)


def test_siblings_of_register_are_imported(tmp_path):
    folder = tmp_path / "my-net"
    folder.mkdir()
    (folder / "network.py").write_text("def net(*arguments): return 7")
    (folder / "register.py").write_text("from .network import net as register")
    assert load_function(folder, "register").register() == 7


def test_configured_folder_comes_before_path(tmp_path, monkeypatch):
    program = tmp_path / "own" / "reg_aladin"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho out; echo 'bad thing' >&2; exit 3\n")
    program.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    found = find_program("reg_aladin", ["own"])
    assert found == program, "a relative folder must not depend on where the program runs"
    with pytest.raises(UserError, match=r"reg_aladin exited with status 3: out \| bad thing"):
        run_program([found], tmp_path, threads=1)


def test_what_methods_start_from_is_run_and_not_shown(config):
    """In shards of other sizes too; a start that is no method is named."""
    config["methods"], config["shard_size"] = ["identity", "demons"], {"demons": 3}
    config["pairs"] |= {"cross-subject": 4}
    run = load_run(config)
    assert set(run.methods) == {"identity", "demons", "affine-niftyreg"}
    assert set(run.shown) == {"identity", "demons"}
    for shard, couples in run.shards["demons"].items():
        found = [
            c for start in run.starts_of("demons", shard) for c in run.shards[start[0]][start[1]]
        ]
        assert set(couples) <= set(found)
        assert run.starts_of("identity", next(iter(run.shards["identity"]))) == []


def test_an_unknown_start_is_named(config, tmp_path):
    for name in ("demons", "identity"):
        shutil.copytree(BASELINES / name, tmp_path / name)
        text = (BASELINES / name / "method.yaml").read_text(encoding="utf-8")
        (tmp_path / name / "method.yaml").write_text(text.replace("affine-niftyreg", "identty"))
    config |= {"methods": ["demons"], "table2": [], "curves": {}, "method_params": {}}
    with pytest.raises(UserError, match=r"starts_from: no method 'identty'.*identity"):
        load_methods(config, tmp_path)
