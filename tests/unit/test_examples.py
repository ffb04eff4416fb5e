"""Example figures: which pairs and methods they show, and a drawing on an oblique grid."""

import json

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk

from avsm.images import write_image
from tests.conftest import ROOT, blobs, oblique_grid
from workflow.contract.shard import field_path
from workflow.examples import ROWS, example_figures
from workflow.geometry import vector_image
from workflow.referee.pictures import draw_check, draw_examples, example_scores
from workflow.referee.tidy import COLUMNS
from workflow.run import load_run


def test_figures_of_the_default_run_show_its_first_pairs(config):
    config["training"]["start"] = "scratch"  # all networks of Table 2
    run = load_run(config)
    figures = example_figures(run)
    assert set(figures) == {"4", "6", "12", "13", "14"}
    shown = [example.pair for number in ("4", "14") for example in figures[number].columns]
    assert len(set(shown)) == len(shown) == 8  # of four a task, two and two
    assert all(pair in run.couples for pair in shown)
    assert figures["4"].columns[0].affine == "affine-net"
    for example in figures["4"].columns:
        assert example.pair in run.shards[example.method][run.shard_of("avsm-3step", example.pair)]
    assert [example.method for example in figures["13"].columns] == config["curves"]["figure8"]
    assert len({example.pair for example in figures["13"].columns}) == 1
    assert {example.method for example in figures["12"].columns} == {"avsm-6"}
    assert [example.method for example in figures["6"].columns] == ["avsm-3step", "ablation-8"]


def test_a_run_without_a_method_leaves_out_what_shows_it(config):
    """Nobody who lists a few methods trains the networks of Table 2."""
    run = load_run(config | {"methods": ["identity"]})
    assert list(run.methods) == ["identity"] and not run.networks
    assert example_figures(run) == {} and run.config["table2"] == []
    one = {"figure8": ["avsm-1"], "figure10": []}  # a row of avsm-3step
    assert load_run(config | {"methods": ["identity"], "curves": one}).config["curves"] == {
        "figure8": [], "figure10": [],
    }  # fmt: skip
    scratch = {"training": config["training"] | {"start": "scratch"}}
    three = {"methods": ["identity", "affine-net", "avsm-3step"]}
    without = load_run(config | scratch | three)
    assert run.config["curves"] == {"figure8": [], "figure10": []}
    assert len(without.config["table2"]) == 9 and without.config["curves"]["figure10"]
    assert without.config["curves"]["figure8"] == []  # shows avsm-2step too


def test_figure_6_shows_the_rows_that_differ_by_the_symmetric_loss(config):
    """Whatever they are called, and wherever they stand."""
    rows = [row | {"row": f"R{n}"} for n, row in enumerate(reversed(config["table2"]))]
    config |= {"table2": rows, "training": config["training"] | {"start": "scratch"}}
    shown = example_figures(load_run(config))["6"].columns
    assert [(e.title, e.method) for e in shown] == [
        ("with symmetric loss", "avsm-3step"), ("without", "ablation-8"),
    ]  # fmt: skip
    config["table2"] = rows[:1] + rows[2:]
    assert "6" not in example_figures(load_run(config))


def test_examples_show_the_method_that_names_its_affine_part(config):
    """A row under another name and label stands for the method that it is of."""
    config["method_rows"]["deep"] = {"of": "avsm-3step", "label": "Mine"}
    run = load_run(config | {"methods": ["identity", "affine-net", "deep"]})
    assert {e.method for e in example_figures(run)["4"].columns} == {"deep"}
    assert {e.affine for e in example_figures(run)["4"].columns} == {"affine-net"}
    run = load_run(config | {"methods": ["identity", "deep"]})
    assert {e.affine for e in example_figures(run)["4"].columns} == {None}
    assert "affine" not in example_figures(run)["4"].rows


def test_rows_that_begin_with_nothing_are_not_compared_with_published_ones(
    config, monkeypatch, tmp_path
):
    three = {"methods": ["identity", "affine-net", "avsm-3step"]}
    needed = load_run(config | three | {"training": config["training"] | {"start": "scratch"}})
    for name in ("models.json", "affine.pt", "momentum.pt"):
        (tmp_path / "models").mkdir(exist_ok=True)
        (tmp_path / "models" / name).write_bytes((ROOT / "models" / name).read_bytes())
    monkeypatch.chdir(tmp_path)
    published = config | three | {"training": config["training"] | {"start": "published"}}
    assert load_run(published).config["table2"] == []
    for name in needed.networks:
        (tmp_path / "models" / f"{name}.pt").touch()
    assert len(load_run(published).config["table2"]) == 9


@pytest.mark.parametrize("registered", [True, False])
def test_drawing(tmp_path, registered):
    grid = oblique_grid((12, 16, 14))
    image, label = tmp_path / "image.nii", tmp_path / "label.nii"
    write_image(blobs(grid), image)
    write_image(sitk.Cast(blobs(grid) > 0.5, sitk.sitkUInt8), label)
    if registered:
        shift = np.ones((3, 14, 16, 12), np.float32)
        write_image(vector_image(shift, grid), field_path(tmp_path, "a", "b"))
    column = {
        "title": "a pair", "fixed": "a", "moving": "b", "images": [str(image)] * 2,
        "labels": [str(label)] * 2, "fields": str(tmp_path), "affine": str(tmp_path),
    }  # fmt: skip
    path = tmp_path / "figure.png"
    structures = [{"name": "inner", "value": 1}]
    draw_examples([column], ROWS, structures, [str(path)])
    assert path.stat().st_size > 3000
    entry = {"fixed": "a", "moving": "b", "reason": "E: no"}
    (tmp_path / "outcomes.json").write_text(json.dumps({"registrations": [entry]}))
    check = tmp_path / "check.png"
    outcomes = str(tmp_path / "outcomes.json")
    draw_check(column | {"outcomes": outcomes}, structures, str(check))
    assert check.stat().st_size > (15000 if registered else 3000)


def test_scores_beside_a_figure_are_those_of_its_pairs():
    rows = [
        ("m", "longitudinal", fixed, moving, "mean", "dice", value, "")
        for fixed, moving, value in (("a", "b", 0.1), ("b", "a", 0.2), ("a", "c", 0.3))
    ]
    table = pd.DataFrame(rows, columns=COLUMNS)
    columns = [
        {"title": "one\npair", "method": "m", "fixed": "b", "moving": "a"},
        {"title": "two", "method": "m", "fixed": "a", "moving": "c"},
    ]
    found = example_scores(columns, table)
    assert found["title"].tolist() == ["one, pair", "two"]
    assert found["value"].tolist() == [0.2, 0.3]
