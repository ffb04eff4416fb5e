"""Example figures: which pairs and methods they show, and a drawing on an oblique grid."""

import numpy as np
import pytest
import SimpleITK as sitk
import yaml

from tests.conftest import ROOT, blobs, oblique_grid
from tests.unit.test_config import merge
from workflow.contract.shard import field_path
from workflow.examples import example_figures
from workflow.geometry import vector_image
from workflow.images import write_image
from workflow.referee.examples import ROWS, draw_examples
from workflow.run import load_run


def test_figures_of_the_default_run_show_its_first_pairs(config):
    run = load_run(config)
    figures = example_figures(run)
    assert set(figures) == {"4", "14"}
    shown = [example.pair for number in ("4", "14") for example in figures[number].columns]
    assert len(set(shown)) == len(shown) == 8  # of four a task, two and two
    assert all(pair in run.couples for pair in shown)
    assert figures["4"].columns[0].affine == "affine-net"
    for example in figures["4"].columns:
        assert example.pair in run.shards[example.method][run.shard_of("avsm-3step", example.pair)]


def test_steps_and_ablation_bring_their_figures(config):
    for name in ("steps", "ablation"):
        text = (ROOT / f"config/{name}.yaml").read_text(encoding="utf-8")
        config = merge(config, yaml.safe_load(text))
    figures = example_figures(load_run(config))
    assert set(figures) == {"4", "6", "12", "13", "14"}
    assert [example.method for example in figures["13"].columns] == config["curves"]["figure8"]
    assert len({example.pair for example in figures["13"].columns}) == 1
    assert {example.method for example in figures["12"].columns} == {"avsm-6"}
    assert [example.method for example in figures["6"].columns] == ["avsm-3step", "ablation-8"]


def test_no_avsm_no_examples(config):
    assert example_figures(load_run(config | {"methods": ["identity"]})) == {}


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
    draw_examples([column], list(ROWS), structures, "matplotlibrc", [str(path)])
    assert path.stat().st_size > 3000
