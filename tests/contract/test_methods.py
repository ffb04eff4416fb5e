"""Every method folder honours the contract: geometry, direction, units, reproducible warping.

Run it for one method with `pytest tests/contract -k <method>`.
"""

from functools import cache

import numpy as np
import pytest
import SimpleITK as sitk
import yaml

from tests.conftest import ROOT, blobs, oblique_grid
from workflow.contract.methods import BASELINES, available_methods, load_methods, load_register
from workflow.contract.registration import Context, check_result
from workflow.contract.shard import set_threads
from workflow.errors import ContractError
from workflow.geometry import describe_grid, same_grid, warp

SHIFT_MM = np.array([2.5, -2.0, 3.0])
# Enough for blobs, far less than the paper's.
FEW_ITERATIONS = {int: 40, list: [40, 30, 20, 5]}
# Tools sample in float32 or store rounded matrices, and may treat the outermost voxels differently.
WARP_TOLERANCE = 0.004
VOXEL_MM = 1.4


@cache
def pair():
    """A fixed and a moving image of one object, on oblique grids with different headers.

    The object sits `SHIFT_MM` off the middle of the moving grid, so the true displacement is the
    same vector everywhere: from the middle of one grid to that of the other, plus the shift.
    """
    size, spacing = (30, 40, 36), (1.4, 0.9, 1.0)
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
    """Return a method's kind and default parameters; the template is no method of its own."""
    if name == "_template":
        text = (BASELINES / name / "method.yaml").read_text(encoding="utf-8")
        parameters = yaml.safe_load(text)["parameters"]
        return "control", {key: entry["default"] for key, entry in parameters.items()}
    method = load_methods(config | {"methods": [name], "method_params": {}})[name]
    return method.kind, dict(method.params)


@pytest.mark.parametrize("unit_spacing", [True, False], ids=["voxels", "physical"])
@pytest.mark.parametrize("name", [*available_methods(), "_template"])
def test_contract(name, unit_spacing, config, tmp_path):
    kind, params = method_of(name, config)
    if "unit_spacing" not in params and not unit_spacing:
        pytest.skip(f"{name} has one frame only")
    params |= {"unit_spacing": unit_spacing} if "unit_spacing" in params else {}
    if "iterations" in params:
        params["iterations"] = FEW_ITERATIONS[type(params["iterations"])]
    set_threads(1, seed=1)
    fixed, moving, truth = pair()
    module = load_register(BASELINES / name)
    results = {}
    for direction, (a, b) in {"forward": (fixed, moving), "backward": (moving, fixed)}.items():
        folder = tmp_path / direction
        folder.mkdir()
        inputs = [sitk.Image(a), sitk.Image(b)]
        results[direction] = module.register(*inputs, dict(params), Context(1, 1, folder))
        for given, kept in zip(inputs, (a, b), strict=True):
            assert sitk.Hash(given) == sitk.Hash(kept), "the method changed its input images"

    for direction, (a, b) in {"forward": (fixed, moving), "backward": (moving, fixed)}.items():
        displacement = check_result(results[direction], a, where=name)
        own = results[direction].warped
        assert same_grid(own, a), f"found {describe_grid(own)}, expected {describe_grid(a)}"
        ours = sitk.GetArrayFromImage(warp(b, displacement))
        difference = warp_difference(b, displacement, own)
        assert difference < WARP_TOLERANCE, "the field does not give the method's own image"
        if kind != "control":
            target = sitk.GetArrayFromImage(a)
            before = np.abs(sitk.GetArrayFromImage(b) - target).mean()
            assert np.abs(ours - target).mean() < 0.4 * before
            sign = 1 if direction == "forward" else -1
            vectors = sitk.GetArrayFromImage(displacement)[target > 0.4]
            error_mm = np.linalg.norm(vectors - sign * truth, axis=1).mean()
            assert error_mm < VOXEL_MM, f"{vectors.mean(axis=0)} mm, true {sign * truth} mm"


def warp_difference(moving, displacement, own):
    """Return the mean difference to a method's own image, which may be a cubic interpolation."""
    inner = (slice(2, -2),) * 3
    theirs = sitk.GetArrayFromImage(own)[inner]
    field = sitk.DisplacementFieldTransform(sitk.Cast(displacement, sitk.sitkVectorFloat64))
    ours = (sitk.Resample(moving, own, field, kind) for kind in (sitk.sitkLinear, sitk.sitkBSpline))
    return min(np.abs(sitk.GetArrayFromImage(image)[inner] - theirs).mean() for image in ours)


def test_results_off_the_contract_are_refused():
    fixed, moving, _ = pair()
    identity = load_register(BASELINES / "identity").register
    with pytest.raises(ContractError, match="a__b: displacement is not on the fixed grid"):
        check_result(identity(moving, fixed, {"unit_spacing": True}, None), fixed, where="a__b")
    with pytest.raises(ContractError, match="returned tuple, expected Registration"):
        check_result((), fixed, where="a__b")


def test_every_method_folder_is_complete():
    for name in [*available_methods(), "_template"]:
        files = {path.name for path in (ROOT / "baselines" / name).iterdir()}
        assert {"rule.smk", "register.py", "method.yaml"} <= files, name
