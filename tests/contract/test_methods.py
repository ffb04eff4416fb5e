"""Every method folder honours the contract: geometry, direction, units, reproducible warping.

Run it for one method with `pytest tests/contract -k <method>`.
"""

import csv
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import SimpleITK as sitk
import yaml

from avsm.errors import UserError
from tests.conftest import ROOT, blobs, oblique_grid
from tests.contract.judge import fail, judge_field, time_limit
from workflow.contract.folders import BASELINES, NETWORKS, load_function
from workflow.contract.methods import available_methods, load_methods
from workflow.contract.networks import available_networks, load_networks
from workflow.contract.registration import Context, check_result
from workflow.contract.training import Training, check_trained
from workflow.geometry import warp
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
    """Return a method's kind, default parameters, networks and start, if it has any."""
    if name == "_template":
        text = (BASELINES / name / "method.yaml").read_text(encoding="utf-8")
        parameters = yaml.safe_load(text)["parameters"]
        return "control", {key: entry["default"] for key, entry in parameters.items()}, (), ""
    method = load_methods(config | {"methods": [name], "method_params": {}})[name]
    return method.kind, dict(method.params), method.networks, method.starts_from


def require_modules(name):
    """Skip a method whose packages are not installed, as those of requirements-modern.txt."""
    description = yaml.safe_load((BASELINES / name / "method.yaml").read_text(encoding="utf-8"))
    for module in description["requires"]["modules"]:
        pytest.importorskip(module)


def start_by(name, fixed, moving, config, context, folder):
    """Return the affine map by the method that another one starts from; none: None."""
    if not name:
        return None
    folder.mkdir()
    params = method_of(name, config)[1]
    module = load_function(BASELINES / name, "register")
    context = replace(context, folder=folder)
    if hasattr(module, "prepare"):
        context = replace(context, prepared=module.prepare(dict(params), context))
    return module.register(fixed, moving, params, context).affine


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    """A training manifest that holds the pair in both splits."""
    folder = tmp_path_factory.mktemp("cohort")
    rows = []
    for name, image in zip("ab", pair()[:2], strict=True):
        sitk.WriteImage(sitk.Cast(image > 0.4, sitk.sitkUInt8), str(folder / f"{name}_label.nii"))
        # No image may be in both splits: those to validate on are a little darker.
        for split, label, part in (("train", "", 1.0), ("validation", f"{name}_label.nii", 0.9)):
            sitk.WriteImage(image * part, str(folder / f"{name}_{split}.nii"))
            rows.append((f"{split}-{name}", f"{name}_{split}.nii", label, split))
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
            one = type("Method", (), {"id": "test", "networks": (name,)})
            network = load_networks(_default_config | {"network_params": {}}, [one])[name]
            params = dict(network.params)
            params |= {"settings": FEW_STEPS} if "settings" in params else {}
            needed = tuple(map(model, network.needs))
            state = manifest.parent / name
            state.mkdir()
            module = load_function(NETWORKS / name, "train")
            context = Training("cross-subject", 1, 1, (1,), needed)
            result = check_trained(module.train(manifest, state, params, context), name)
            assert result.steps > 0 and result.seconds > 0
            trained[name] = result.model
        return trained[name]

    return model


@pytest.mark.parametrize("unit_spacing", [True, False], ids=["voxels", "physical"])
@pytest.mark.parametrize("name", [*available_methods(), "_template"])
def test_contract(name, unit_spacing, config, tmp_path, train):
    require_modules(name)
    kind, params, networks, first = method_of(name, config)
    if "unit_spacing" not in params and not unit_spacing:
        pytest.skip(f"{name} has one frame only")
    params |= {"unit_spacing": unit_spacing} if "unit_spacing" in params else {}
    if "iterations" in params:
        few = FEW_ITERATIONS[type(params["iterations"])]
        params["iterations"] = few[: len(params["iterations"])] if isinstance(few, list) else few
    set_threads(1, seed=1)
    fixed, moving, truth = pair()
    module = load_function(BASELINES / name, "register")
    context = Context(1, 1, tmp_path, models=tuple(map(train, networks)))
    if hasattr(module, "prepare"):
        context = replace(context, prepared=module.prepare(dict(params), context))
    results = {}
    for direction, (a, b) in {"forward": (fixed, moving), "backward": (moving, fixed)}.items():
        folder = tmp_path / direction
        folder.mkdir()
        inputs = [sitk.Image(a), sitk.Image(b)]
        start = start_by(first, *inputs, config, context, tmp_path / f"start-{direction}")
        own = replace(context, folder=folder, start=start)
        with time_limit(LIMIT, "register()"):
            result = module.register(*inputs, dict(params), own)
        if [*map(sitk.Hash, inputs)] != [sitk.Hash(a), sitk.Hash(b)]:
            fail("the method changed its input images")
        results[direction] = check_result(result, a, where=name), result.warped()

    for direction, (a, b) in {"forward": (fixed, moving), "backward": (moving, fixed)}.items():
        displacement, own = results[direction]
        judge_field(displacement, a, b, own)
        if kind != "control" and name not in HARDLY_TRAINED:
            target, before, after = map(sitk.GetArrayFromImage, (a, b, warp(b, displacement)))
            before, after = (float(np.abs(image - target).mean()) for image in (before, after))
            if after >= 0.4 * before:
                fail(f"images differ by {after:.4f} after registration, {before:.4f} before it")
            sign = 1 if direction == "forward" else -1
            vectors = sitk.GetArrayFromImage(displacement)[target > 0.4]
            error_mm = float(np.linalg.norm(vectors - sign * truth, axis=1).mean())
            if error_mm >= VOXEL_MM:
                found, true = vectors.mean(axis=0).round(2).tolist(), (sign * truth).round(2)
                fail(f"found {found} mm in the mean, true is {true.tolist()} mm")


def test_results_off_the_contract_are_refused():
    fixed, moving, _ = pair()
    identity = load_function(BASELINES / "identity", "register").register
    with pytest.raises(UserError, match="a__b: displacement is not on the fixed grid"):
        check_result(identity(moving, fixed, {"unit_spacing": True}, None), fixed, where="a__b")
    with pytest.raises(UserError, match="returned tuple, expected Registration"):
        check_result((), fixed, where="a__b")


def test_every_method_folder_is_complete():
    for name in [*available_methods(), "_template"]:
        files = {path.name for path in (ROOT / "baselines" / name).iterdir()}
        assert {"rule.smk", "register.py", "method.yaml"} <= files, name
    for name in available_networks():
        files = {path.name for path in (NETWORKS / name).iterdir()}
        assert {"train.py", "network.yaml"} <= files, name
