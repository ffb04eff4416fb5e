"""Networks in the benchmark: descriptions, scans, what a killed training leaves, footnotes."""

import itertools
import shutil
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import pandas as pd
import pytest
import yaml

from avsm.errors import UserError
from avsm.files import file_digest, write_rows
from avsm.manifest import misfit
from avsm.pairs import PairSampler, keyed_generator, read_cohort, validation_pairs
from tests.conftest import ROOT, available
from tests.unit.test_config import merge
from workflow.contract.descriptions import load_methods, load_networks
from workflow.contract.folders import NETWORKS
from workflow.contract.training import (
    Trained,
    check_listed,
    check_trained,
    open_state,
)
from workflow.data.pairs import (
    couple_rows,
    manifest_rows,
    read_scan,
    training_couples,
    training_scans,
)
from workflow.data.scans import Scan
from workflow.referee.table1 import notes
from workflow.run import check_requirements, load_run


def method_with(*networks):
    """Return a method that needs networks."""
    return SimpleNamespace(id="mine", folder="mine", networks=networks)


def write_network(folder, name, **changes):
    """Write a network's folder, a copy of the affine one's with changes."""
    shutil.copytree(NETWORKS / "affine", folder / name)
    path = folder / name / "network.yaml"
    description = yaml.safe_load(path.read_text(encoding="utf-8")) | {"label": name} | changes
    del description["rows"]
    path.write_text(yaml.safe_dump(description), encoding="utf-8")


def test_needed_networks_come_first_each_once(config):
    found = load_networks(config, [method_with("momentum", "affine"), method_with("affine")])
    assert list(found) == ["affine", "momentum"]
    assert found["momentum"].needs == ["affine"]
    assert load_networks(config, [method_with()]) == {}
    assert available("network", NETWORKS) == [
        "affine", "momentum", "voxelmorph", "voxelmorph-affine"
    ]  # fmt: skip


def test_faults_of_networks_are_all_named(tmp_path, plain_config):
    for name, changes in {
        "one": {"needs": ["twoo"]}, "two": {"kind": "learned"}, "_hidden": {},
    }.items():  # fmt: skip
        write_network(tmp_path, name, **changes)
    plain_config["network_params"] = {"onne": {}, "one": {"preset": "smal"}}
    with pytest.raises(UserError) as caught:
        load_networks(plain_config, [method_with("one", "two", "three")], tmp_path)
    message = str(caught.value)
    for part in (
        "network_params: no network 'onne' (did you mean 'one'?); available: one, two",
        "network_params.one: preset: found 'smal', expected one of small, paper (did you mean",
        "baselines/networks/two/network.yaml: unknown key 'kind'",
        "baselines/mine/method.yaml: networks: no network 'three'",
    ):
        assert part in message
    plain_config["network_params"] = {}
    with pytest.raises(UserError, match=r"one/network\.yaml: needs: no network 'twoo' \(did"):
        load_networks(plain_config, [method_with("one")], tmp_path)


def test_networks_in_a_circle_and_with_one_label(tmp_path, plain_config):
    plain_config["network_params"] = {}
    write_network(tmp_path, "one", needs=["two"])
    write_network(tmp_path, "two", needs=["one"])
    with pytest.raises(UserError, match="one, two need one another in a circle"):
        load_networks(plain_config, [method_with("one")], tmp_path)
    write_network(tmp_path, "three", label="one")
    with pytest.raises(UserError, match=r"label 'one' is that of one and"):
        load_networks(plain_config, [method_with("one", "three")], tmp_path)


def test_modules_that_networks_lack_are_named(tmp_path, plain_config):
    plain_config["network_params"] = {}
    write_network(tmp_path, "one", requires={"modules": ["no_such_module"]})
    networks = load_networks(plain_config, [method_with("one")], tmp_path)
    with pytest.raises(UserError, match="one: Python module 'no_such_module' is not installed"):
        check_requirements(networks.values(), [])


def test_only_learned_methods_have_networks(tmp_path, plain_config):
    shutil.copytree(ROOT / "baselines/_template", tmp_path / "mine")
    path = tmp_path / "mine/method.yaml"
    description = yaml.safe_load(path.read_text(encoding="utf-8")) | {"networks": ["affine"]}
    path.write_text(yaml.safe_dump(description), encoding="utf-8")
    plain_config |= {"methods": ["mine"], "method_params": {}}
    with pytest.raises(UserError, match="networks: found kind classical, expected learned"):
        load_methods(plain_config, tmp_path)


@pytest.mark.parametrize(
    ("change", "trainings"),
    [
        ({}, [("affine", "both"), ("momentum", "both")]),
        (
            {"pairs": {"longitudinal": 0}},
            [("affine", "cross-subject"), ("momentum", "cross-subject")],
        ),
        (
            {"training": {"pairs": "apart"}, "methods": ["affine-net"]},
            [("affine", "longitudinal"), ("affine", "cross-subject")],
        ),
    ],
)
def test_a_run_knows_its_trainings(config, change, trainings):
    run = load_run(merge(config | {"methods": ["identity", "avsm-2step"]}, change))
    assert run.trainings == trainings
    method = list(run.methods)[-1]
    shard = next(iter(run.shards[method]))
    model, pairs = run.methods[method].networks[0], trainings[0][1]
    assert run.models_of(method, shard) == [f"results/phantom/networks/{model}/{pairs}/model.pt"]
    if model == "momentum":
        needed = f"results/phantom/networks/affine/{pairs}/model.pt"
        assert run.needed_models(model, pairs) == [needed]


def test_tested_scans_are_never_trained_on(config):
    run = load_run(config)
    assert run.trained and run.validated and not set(run.trained) & set(run.tested)
    assert {run.scans[name].split for name in run.trained} == {"validation"}  # and phantom people
    assert set(run.used) == {*run.trained, *run.tested}
    config["phantom"]["training"] = None
    run = load_run(config)
    assert {run.scans[name].split for name in run.trained} == {"train", "validation"}
    assert not set(run.trained) & set(run.tested)
    classical = load_run(config | {"methods": ["identity"]})
    assert classical.trained == [] and classical.trainings == []


def knees(patients, visits=2, mirrored=True):
    """Return training scans of both knees of patients, and one more to validate on."""
    scans = [
        Scan(f"P{patient}", str(visit), side, "i.nii", None, "train", mirrored and side == "left")
        for patient, visit, side in itertools.product(
            range(patients), range(visits), ("left", "right")
        )
    ]
    scans.append(Scan("V", "0", "left", "i.nii", "l.nii", "validation"))
    return {scan.name: scan for scan in scans}


def test_training_couples_are_chosen_evenly(config):
    scans = knees(8)
    config["training"]["couples"] = {"longitudinal": 9, "cross-subject": 20}
    couples = training_couples(scans, config, ["longitudinal", "cross-subject"])
    assert couples == training_couples(scans, config, ["longitudinal", "cross-subject"])
    for task, most in (("longitudinal", 1), ("cross-subject", 2)):
        own = couples[task]
        assert len(own) == len({frozenset(couple[1:]) for couple in own})
        often = Counter(name for _, *names in own for name in names)
        assert max(often.values()) <= most
        for _, a, b in own:
            assert (scans[a].subject == scans[b].subject) == (task == "longitudinal")
    used = {name for own in couples.values() for _, *names in own for name in names}
    chosen = {scan.name for scan in training_scans(scans, couples)}
    assert chosen == used | {"V_0_left"}
    config["seed"] += 1
    assert couples != training_couples(scans, config, ["longitudinal", "cross-subject"])


@pytest.mark.parametrize(("patients", "mirrored"), [(3, True), (4, True), (3, False)])
def test_training_couples_may_be_all_there_are(config, patients, mirrored):
    """The rounds of the tournament miss no couple, with odd numbers of scans too."""
    scans = knees(patients, mirrored=mirrored)
    del scans["P0_1_left"]
    training = [scan for scan in scans.values() if scan.split == "train"]
    expected = {
        frozenset((a.name, b.name))
        for a, b in itertools.combinations(training, 2)
        if a.subject != b.subject and (mirrored or a.side == b.side)
    }
    config["training"]["couples"]["cross-subject"] = len(expected)
    (own,) = training_couples(scans, config, ["cross-subject"]).values()
    assert {frozenset(names) for _, *names in own} == expected
    config["training"]["couples"]["cross-subject"] += 1
    with pytest.raises(UserError, match=rf"cross-subject: found {len(expected)}, asked for"):
        training_couples(scans, config, ["cross-subject"])


@pytest.mark.parametrize("patients", [0, 1, 2])
def test_too_few_training_scans_for_the_couples_are_named(config, patients):
    """A release that is not complete must not be searched for ever."""
    scans = knees(patients, visits=1 + patients // 2)
    config["training"]["couples"] = {"longitudinal": 5, "cross-subject": 99}
    with pytest.raises(UserError) as caught:
        training_couples(scans, config, ["longitudinal", "cross-subject"])
    visits, across = {0: (0, 0), 1: (0, 0), 2: (4, 16)}[patients]
    assert f"longitudinal: found {visits}, asked for 5" in str(caught.value)
    assert f"cross-subject: found {across}, asked for 99" in str(caught.value)


def test_images_that_are_gone_are_named(tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.nii").touch()
    manifest = tmp_path / "manifest.csv"
    manifest.write_text("image,split\na.nii,train\nb.nii,train\n", encoding="utf-8")
    check_listed(manifest)
    (tmp_path / "b.nii").unlink()
    with pytest.raises(UserError, match=r"1 of its 2 images are gone, .*b\.nii the first"):
        check_listed(manifest)


def test_couples_of_one_task_alone_need_all_scans(config):
    config["phantom"]["training"] = None
    config["training"]["couples"]["longitudinal"] = 2
    run = load_run(config)
    everything = {scan.name for scan in run.scans.values() if scan.split == "train"}
    assert everything < {*run.trained}
    rows = couple_rows(couple for own in run.listed.values() for couple in own)
    assert [task for task, *_ in rows] == 2 * ["longitudinal"]
    config["training"]["couples"]["cross-subject"] = 1
    assert len(load_run(config).trained) < len(run.trained)


def test_missing_training_scans_name_the_settings(config):
    config["split"] = {"test": 1.0, "validation": 0.0}
    config["methods"] = ["identity", "affine-net"]
    with pytest.raises(UserError) as caught:
        load_run(config)
    assert "no training pairs" not in str(caught.value)  # phantom people are trained on
    assert "longitudinal: no labelled validation pairs" in str(caught.value)
    config["phantom"]["training"] = None
    with pytest.raises(UserError) as caught:
        load_run(config)
    message = str(caught.value)
    assert message.startswith("affine-net: too few scans to train networks on (lower split.test")
    for task in ("longitudinal", "cross-subject"):
        assert f"{task}: no training pairs among the 0 training scans of 0 patients" in message
        assert f"{task}: no labelled validation pairs among the 0 labelled" in message
    load_run(config | {"methods": ["identity"]})


def test_only_validation_scans_have_labels_in_the_manifest():
    scans = [Scan(f"P{i}", "1", "right", f"{i}.nii", f"{i}l.nii", split)
             for i, split in enumerate(("train", "validation"))]  # fmt: skip
    assert [row["label"] for row in manifest_rows(scans)] == [
        "", "../../labels/P1_1_right.nii"
    ]  # fmt: skip
    assert [read_scan(scan).label for scan in scans] == [None, "1l.nii"]
    simulated = Scan("P2", "1", "right", None, "2l.nii", "train")
    assert read_scan(simulated).label == "2l.nii"


@pytest.mark.parametrize("mirror_left", [True, False])
def test_pairs_are_trained_and_validated_on_by_the_rule_of_those_tested(tmp_path, mirror_left):
    """Every couple that may be tested, and no other: sides, patients and visits of all kinds."""
    sides = ("left", "right", "")
    scans = [
        Scan(f"P{n}", f"v{visit}", side, "x", "x", mirrored=mirror_left and side == "left")
        for n, side in enumerate([*sides, *sides, "left"])
        for visit in range(1 + (n < 4))
    ]
    scans.append(Scan("P0", "v0", "right", "x", "x"))
    both = [replace(scan, split=split) for split in ("train", "validation") for scan in scans]
    rows = manifest_rows(both)
    folder = tmp_path / "training" / "both"
    folder.mkdir(parents=True)
    for row in rows:  # the same scans in both splits, each with its own files and patients
        row["subject"] += row["split"]
        for kind in ("image", "label"):
            if row[kind]:
                row[kind] = row[kind].replace("../../", f"../../{row['split']}_")
                (folder / row[kind]).parent.mkdir(exist_ok=True)
                (folder / row[kind]).touch()
    write_rows(folder / "manifest.csv", [*rows[0]], rows)
    cohort = read_cohort(folder / "manifest.csv", "both")
    for task in ("longitudinal", "cross-subject"):
        expected = {
            frozenset((a.name, b.name))
            for a, b in itertools.combinations(scans, 2)
            if not misfit(task, a, b)
        }
        drawn = PairSampler(cohort.training, task).draw(3000, keyed_generator(0))
        for own, pairs in (
            (cohort.training, zip(*drawn, strict=True)),
            (cohort.validation, validation_pairs(cohort.validation, task, 10**6, 0)),
        ):
            names = {frozenset(own[index].image.stem for index in pair) for pair in pairs}
            assert names == expected, task


def test_state_survives_only_what_it_was_made_of(tmp_path):
    image = tmp_path / "image.nii"
    image.write_text("a")
    state = tmp_path / "state"

    def opened(**changes):
        made_of = {"params": {"rate": (1, 2)}, "task": "both", "inputs": file_digest(image)}
        return open_state(state, made_of | changes)

    assert not opened()
    (state / "last.pt").touch()
    assert opened() and (state / "last.pt").exists()
    image.write_text("b")
    assert not opened() and not (state / "last.pt").exists()
    (state / "last.pt").touch()
    assert not opened(task="longitudinal") and not (state / "last.pt").exists()
    (state / "made_of.json").unlink()
    (state / "last.pt").touch()
    assert not opened() and not (state / "last.pt").exists()


def test_a_cleared_state_is_said_in_the_log(tmp_path, caplog):
    open_state(tmp_path / "state", {"params": {"rate": 1}, "seed": 1})
    open_state(tmp_path / "state", {"params": {"rate": 2}, "seed": 1})
    assert caplog.messages == [f"{tmp_path}/state: cleared, as it was made with other params"]


def test_a_training_hands_back_files(tmp_path):
    (tmp_path / "model.pt").touch()
    trained = Trained(tmp_path / "model.pt", tmp_path / "h.csv", tmp_path / "h.png", 1, 1.0)
    with pytest.raises(UserError, match=r"one: train\(\) wrote no history .*h.csv, no curve"):
        check_trained(trained, "one")
    with pytest.raises(UserError, match="returned NoneType, expected Trained"):
        check_trained(None, "one")


def test_trainings_are_named_under_the_table():
    columns = ["method", "task", "fixed", "moving", "label", "metric", "value", "reason"]
    table = pd.DataFrame({"method": ["Mine"], "device": ["x"], "threads": ["1"]})
    network = {"label": "My network", "params": {"settings": {"rate": 2, "steps": 3}, "p": 1},
               "defaults": {"settings": {}, "p": 1}}  # fmt: skip
    common = {"label": "My network", "processor": "CPU", "threads": 1}
    trainings = [
        common | {"pairs": "both", "steps": 4000, "seconds": 570.0, "device": ""},
        common | {"pairs": "longitudinal", "steps": 3, "seconds": 2.0, "device": "GPU"},
        common | {"pairs": "cross-subject", "steps": 3, "seconds": 9e3, "device": "", "threads": 4},
    ]  # fmt: skip
    lines = notes(pd.DataFrame(columns=columns), [], table, [4, 4, 4], [network], trainings)
    assert (
        "Networks: My network, both tasks: 4,000 steps, 9.5 min on CPU, 1 thread; My network, "
        "longitudinal pairs: 3 steps, 2 s on GPU, 1 thread; My network, cross-subject pairs: "
        "3 steps, 2.5 h on CPU, 4 threads."
    ) in lines
    assert "My network: settings rate 2, steps 3 (default none)." in lines
    assert not any("p 1" in line for line in lines)
