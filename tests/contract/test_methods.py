"""Every method folder honours the contract: geometry, direction, units, reproducible warping.

Run it for one method with `pytest tests/contract -k <method>`.
"""

import csv
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk

from avsm.errors import UserError
from avsm.fields import warp_image
from tests.conftest import available, blobs, oblique_grid
from tests.contract.judge import fail, judge_field, time_limit
from workflow.contract.descriptions import load_methods, load_networks
from workflow.contract.folders import BASELINES, NETWORKS, load_function
from workflow.contract.registration import Context, check_result
from workflow.contract.training import Training, check_trained
from workflow.geometry import index_grid, index_map
from workflow.job import set_threads

SHIFT_MM = np.array([2.5, -2.0, 3.0])
# Enough for blobs, far less than the paper's.
FEW_ITERATIONS = {int: 40, list: [40, 30, 20, 5]}
# Of the trainings on the very pair: the affine network learns it, the others hardly begin.
FEW_STEPS = {
    "affine.epochs": 2, "affine.batches": 30, "momentum.epochs": 1, "momentum.batches": 4,
    "validation_pairs": 2, "model.precision": "float32",
}  # fmt: skip
HARDLY_TRAINED = ("voxelmorph",)  # has no affine network in front, so it brings nothing together
VOXEL_MM = 1.4
CONTEXT = Context(threads=1, seed=0, folder=Path())
LIMIT = 1800  # seconds for one registration: of a method that hangs, not of a busy machine


@cache
def pair():
    """A fixed and a moving image of one object, on oblique grids with different headers.

    The object sits `SHIFT_MM` off the middle of the moving grid, so the true displacement is the
    same vector everywhere: from the middle of one grid to that of the other, plus the shift.
    """
    size, spacing = (32, 40, 36), (1.4, 0.9, 1.0)  # FireANTs takes no side below 32 voxels
    fixed = oblique_grid(size, spacing, origin=(-20, 31, -17), angles=(0.15, -0.1, 0.2))
    moving = oblique_grid(size, spacing, origin=(-18, 30, -15), angles=(0.1, -0.05, 0.15))
    middle = [(n - 1) / 2 for n in size]
    middles = [grid.TransformContinuousIndexToPhysicalPoint(middle) for grid in (fixed, moving)]
    truth = np.subtract(middles[1], middles[0]) + SHIFT_MM
    return head(fixed), head(moving, SHIFT_MM), truth


def head(grid, shift_mm=(0, 0, 0)):
    """Return an object with an outline and an inside, which no tool can shrink to fit."""
    inside = blobs(grid, shift_mm, number=40, width=(0.05, 0.09))
    outline = blobs(grid, shift_mm, number=1, width=(0.25, 0.25), seed=7)
    return sitk.Cast(outline > 0.5, sitk.sitkFloat32) * 0.4 + inside * 0.6


def method_of(name, config):
    """Return a method with its default parameters, or the template's."""
    if name == "_template":
        return SimpleNamespace(
            folder=name, kind="control", params={}, networks=(), starts_from="", requires={}
        )
    return load_methods(config | {"methods": [name], "method_params": {}})[name]


def start_by(name, fixed, moving, config, context, folder):
    """Return the affine map by the method that another one starts from; none: None."""
    if not name:
        return None
    folder.mkdir()
    method = method_of(name, config)
    params, module = method.params, load_function(BASELINES / method.folder, "register")
    context = replace(context, folder=folder)
    if hasattr(module, "prepare"):
        context = replace(context, prepared=module.prepare(dict(params), context))
    return module.register(fixed, moving, params, context).affine


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    """A training manifest of the pair, a little darker to train on: no image is in both splits."""
    folder = tmp_path_factory.mktemp("cohort")
    rows = []
    for name, image in zip("ab", pair()[:2], strict=True):
        sitk.WriteImage(sitk.Cast(image > 0.4, sitk.sitkUInt8), str(folder / f"{name}_label.nii"))
        for split, label in (("train", ""), ("validation", f"{name}_label.nii")):
            own = image * 0.98 if split == "train" else image
            sitk.WriteImage(own, str(folder / f"{split}_{name}.nii"))
            rows.append((f"{split}-{name}", f"{split}_{name}.nii", label, split))
    path = folder / "manifest.csv"
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([("subject", "image", "label", "split"), *rows])
    return path


@pytest.fixture(scope="module")
def train(manifest, _default_config):
    """Return a function that trains a network and those that it needs, each once."""
    trained = {}

    def model(name):
        if name not in trained:
            one = SimpleNamespace(folder="test", networks=(name,))
            network = load_networks(_default_config | {"network_params": {}}, [one])[name]
            params = dict(network.params)
            params |= {"settings": FEW_STEPS} if "settings" in params else {}
            needed = tuple(map(model, network.needs))
            state = manifest.parent / name
            state.mkdir()
            module = load_function(NETWORKS / network.folder, "train")
            context = Training("cross-subject", 1, 1, (1,), needed)
            result = check_trained(module.train(manifest, state, params, context), name)
            assert result.steps > 0 and result.seconds > 0
            trained[name] = result.model
        return trained[name]

    return model


@pytest.mark.parametrize("unit_spacing", [True, False], ids=["voxels", "physical"])
@pytest.mark.parametrize("name", [*available("method", BASELINES), "_template"])
def test_contract(name, unit_spacing, config, tmp_path, train):
    method = method_of(name, config)
    for needed in method.requires.get("modules", []):  # requirements-modern.txt may be missing
        pytest.importorskip(needed)
    params = dict(method.params)
    if "unit_spacing" not in params and not unit_spacing:
        pytest.skip(f"{name} has one frame only")
    params |= {"unit_spacing": unit_spacing} if "unit_spacing" in params else {}
    if params.get("iterations"):
        few = FEW_ITERATIONS[type(params["iterations"])]
        params["iterations"] = few[: len(params["iterations"])] if isinstance(few, list) else few
    set_threads(1, seed=1)
    fixed, moving, truth = pair()
    module = load_function(BASELINES / method.folder, "register")
    context = Context(1, 1, tmp_path, models=tuple(map(train, method.networks)))
    if hasattr(module, "prepare"):
        context = replace(context, prepared=module.prepare(dict(params), context))
    for direction, (a, b), sign in (
        ("forward", (fixed, moving), 1), ("backward", (moving, fixed), -1),
    ):  # fmt: skip
        folder = tmp_path / direction
        folder.mkdir()
        inputs = [sitk.Image(a), sitk.Image(b)]
        starts = tmp_path / f"start-{direction}"
        start = start_by(method.starts_from, *inputs, config, context, starts)
        own = replace(context, folder=folder, start=start)
        with time_limit(LIMIT, "register()"):
            result = module.register(*inputs, dict(params), own)
        if [*map(sitk.Hash, inputs)] != [sitk.Hash(a), sitk.Hash(b)]:
            fail("the method changed its input images")
        displacement = check_result(result, a, where=name)
        if method.kind == "control" or name in HARDLY_TRAINED:
            assert np.isfinite(sitk.GetArrayViewFromImage(displacement)).all()
            continue
        target, before, after = map(
            sitk.GetArrayFromImage, (a, b, warp_image(b, displacement, outside=0.0))
        )
        judge_field(displacement, sign * truth.reshape(3, 1, 1, 1), target > 0.4, VOXEL_MM)
        before, after = (float(np.abs(image - target).mean()) for image in (before, after))
        if after >= 0.4 * before:
            fail(f"images differ by {after:.4f} after registration, {before:.4f} before it")


def test_the_identity_is_that_of_the_voxels_or_of_the_places():
    fixed, moving, _ = pair()
    identity = load_function(BASELINES / "identity", "register").register
    voxels = identity(fixed, moving, {"unit_spacing": True}, CONTEXT).displacement
    np.testing.assert_allclose(index_map(voxels, moving), index_grid(fixed), atol=1e-3)
    places = identity(fixed, moving, {"unit_spacing": False}, CONTEXT).displacement
    assert not sitk.GetArrayFromImage(places).any()


def test_results_off_the_contract_are_refused():
    fixed, moving, _ = pair()
    identity = load_function(BASELINES / "identity", "register").register
    with pytest.raises(UserError, match="a__b: displacement is not on the fixed grid"):
        check_result(identity(moving, fixed, {"unit_spacing": True}, CONTEXT), fixed, where="a__b")
    with pytest.raises(UserError, match="returned tuple, expected Registration"):
        check_result((), fixed, where="a__b")
