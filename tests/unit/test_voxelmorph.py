"""VoxelMorph: frames against SimpleITK, the affine front, training, model files."""

import csv
import dataclasses
import importlib

import neurite
import numpy as np
import pytest
import SimpleITK as sitk
import torch
import yaml

from avsm.data import Pairs, Validation
from avsm.errors import UserError
from avsm.fields import warp_image
from avsm.grid import to_grid
from avsm.losses import both_directions
from avsm.maps import Affine, compose_affine, half_shape, identity_map, invert_affine
from avsm.maps import warp as warp_tensor
from avsm.model import AVSM, TrainedModel, describe_model, load_checkpoint, save_checkpoint
from avsm.pairs import keyed_generator, random_affine
from avsm.settings import Phase
from baselines.voxelmorph import register as voxelmorph
from baselines.voxelmorph.register import Loaded, Losses, VoxelMorph, even_shape, resize_voxels
from tests.conftest import blobs, oblique_grid
from tests.unit.avsm.knees import SHAPE, TINY, blob, tiny_recipe, write_cohort
from workflow.contract.folders import NETWORKS
from workflow.contract.registration import Context
from workflow.contract.training import Training

training = importlib.import_module("baselines.networks.voxelmorph.train")
FEATURES = [4, 8]
SHIFT = (1.5, -2.0, 1.0)  # voxels (z, y, x)
INNER = (slice(7, -7),) * 3  # where the border, beyond which velocities are 0, has no part


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def parameters(**changes):
    """Return the network's default parameters, made small."""
    text = (NETWORKS / "voxelmorph" / "network.yaml").read_text(encoding="utf-8")
    params = {key: entry["default"] for key, entry in yaml.safe_load(text)["parameters"].items()}
    settings = {
        "momentum.epochs": 2,
        "momentum.batches": 1,
        # The first epoch has images of half the resolution, eight times as many.
        "momentum.phases": [{"until": 0.5, "scale": 0.5}, {}],
        "momentum.average": 0.9,
        "validation_pairs": 4,
        # bfloat16 gradients of grids so thin are not to be relied on.
        "model.precision": "float32",
    }
    return params | {"features": FEATURES, "device": "cpu", "settings": settings} | changes


def fixed_velocity(monkeypatch, displacement):
    """Let the network predict a given velocity, ``(B, 3, D, H, W)`` in voxels; record its input."""
    seen = []

    def predict(self, fixed, moving):
        seen.append((fixed, moving))
        return resize_voxels(displacement, half_shape(fixed.shape[2:]))

    monkeypatch.setattr(VoxelMorph, "_velocity", predict)
    return seen


def affine_front(matrix, offset):
    """Return a model whose affine network predicts A and b in its only step."""
    model = AVSM(dataclasses.replace(TINY, affine_steps=1)).eval()
    with torch.no_grad():
        model.affine_net.last.bias.copy_(torch.cat([(matrix - torch.eye(3)).flatten(), offset]))
    return TrainedModel(model, SHAPE, ("affine",))


def index_shift(fixed, moving):
    """Return the transform from a fixed voxel i to the moving voxel i + SHIFT, by SimpleITK."""

    def corners(grid, start):
        ends = start + np.vstack([np.zeros(3), np.eye(3)])
        points = [grid.TransformContinuousIndexToPhysicalPoint(end.tolist()) for end in ends]
        matrix = np.eye(4)
        matrix[:3, :3], matrix[:3, 3] = np.subtract(points[1:], points[0]).T, points[0]
        return matrix

    matrix = corners(moving, np.array(SHIFT[::-1])) @ np.linalg.inv(corners(fixed, np.zeros(3)))
    transform = sitk.AffineTransform(3)
    transform.SetMatrix(matrix[:3, :3].ravel())
    transform.SetTranslation(matrix[:3, 3])
    return transform


@pytest.mark.parametrize("axes", ["RAS", "PSL"])
def test_displacement_in_voxels_is_simpleitks_transform_in_mm(monkeypatch, axes):
    fixed = blobs(oblique_grid(), number=40, width=(0.05, 0.1))
    moving = blobs(oblique_grid(spacing=(1.1, 0.9, 1.3), origin=(80, -7, 41), angles=(0.1, 0.2, 0)))
    transform = index_shift(fixed, moving)  # of voxels in the order RAS, whatever comes in
    shape = fixed.GetSize()[::-1]
    fixed = sitk.DICOMOrient(fixed, axes)
    shift = torch.tensor(SHIFT)[:, None, None, None].expand(1, 3, *shape)
    fixed_velocity(monkeypatch, shift)
    loaded = Loaded(VoxelMorph(FEATURES, 7).eval(), shape, {})
    result = voxelmorph.register(fixed, moving, {}, Context(1, 1, None, prepared=loaded))

    expected = sitk.TransformToDisplacementField(
        transform, sitk.sitkVectorFloat64, fixed.GetSize(), fixed.GetOrigin(), fixed.GetSpacing(),
        fixed.GetDirection(),
    )  # fmt: skip
    found, wanted = (
        sitk.GetArrayFromImage(image)[INNER] for image in (result.displacement, expected)
    )
    assert np.abs(wanted).max() > 50  # mm: the headers lie far apart
    np.testing.assert_allclose(found, wanted, atol=1e-3)
    resampled = sitk.Resample(moving, fixed, transform, sitk.sitkLinear, 0.0)
    wanted = sitk.GetArrayFromImage(resampled)[INNER]
    assert wanted.std() > 0.05
    found = sitk.GetArrayFromImage(warp_image(moving, result.displacement, outside=0.0))[INNER]
    np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_affine_map_is_composed_with_the_displacement(monkeypatch):
    matrix = torch.tensor([[0.9, 0.1, 0.0], [-0.1, 1.1, 0.05], [0.0, 0.1, 0.95]])
    offset = torch.tensor([0.1, -0.05, 0.08])
    displacement = torch.tensor(SHIFT)[:, None, None, None].expand(1, 3, *SHAPE)
    seen = fixed_velocity(monkeypatch, displacement)
    fixed, moving = (torch.from_numpy(blob(s, 1.0)[0])[None, None] for s in (0.0, 0.1))
    model = VoxelMorph(FEATURES, 7, affine_front(matrix, offset))
    result = model(fixed, moving)

    voxel = torch.tensor([9.0, 8.0, 7.0])
    size = torch.tensor(SHAPE) - 1
    moved = 2 * (voxel + torch.tensor(SHIFT)) / size - 1  # first u, then the affine map
    # Each squaring doubles what rounding has left of coordinates: of 7, in normalised coordinates.
    bound = 2**7 * torch.finfo(torch.float32).eps * max(SHAPE) * 2 / (min(SHAPE) - 1)
    assert (result.map[0, :, 9, 8, 7] - (matrix @ moved + offset)).abs().max() < bound < 1e-4
    # The network sees what the affine map leaves to do: the moving image at A x + b.
    point = ((matrix @ (2 * voxel / size - 1) + offset + 1) * size / 2).numpy()
    image = sitk.GetImageFromArray(moving[0, 0].numpy())
    value = image.EvaluateAtContinuousIndex(point[::-1].astype(float).tolist())
    assert seen[0][1][0, 0, 9, 8, 7] == pytest.approx(value, abs=1e-5)
    assert torch.equal(seen[0][0], fixed)
    # A given start takes the place of the affine network's.
    given = Affine(matrix.T[None], offset.flip(0)[None])
    result = model(fixed, moving, given)
    turned = matrix.T @ moved + offset.flip(0)
    assert (result.map[0, :, 9, 8, 7] - turned).abs().max() < bound
    alone = VoxelMorph(FEATURES, 7)(fixed, moving, given)
    torch.testing.assert_close(alone.map, result.map)


def test_grids_halve_evenly():
    shapes = [(96, 96, 40), (192, 192, 80), (64, 64, 64), (1, 17, 32)]
    assert [even_shape(shape, 4) for shape in shapes] == [
        (96, 96, 48), (192, 192, 80), (64, 64, 64), (32, 32, 32),
    ]  # fmt: skip
    images = torch.rand(2, 2, 1, 9, 14, 11)
    result = VoxelMorph([2, 2, 2], 7)(*images)
    assert result.map.shape == (2, 3, 9, 14, 11)
    assert result.velocity.shape == (2, 3, 5, 7, 6)
    # The flow layer starts near zero, and so the map near the identity.
    assert (result.map - identity_map((9, 14, 11), images)).abs().max() < 1e-3


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_convolutions_have_the_asked_precision_and_maps_are_single(precision):
    model, seen = VoxelMorph([2, 2], 7, precision=precision), []
    model.net.model.register_forward_hook(lambda _net, _images, output: seen.append(output.dtype))
    result = model(*torch.rand(2, 1, 1, 8, 12, 16))
    assert seen == [getattr(torch, precision)]
    assert result.velocity.dtype == result.map.dtype == torch.float32


def test_flat_images_do_not_end_a_training():
    """In single precision, variances of bright flat windows are below zero by rounding."""
    generator = torch.Generator().manual_seed(0)
    flat = 0.7 + 1e-4 * torch.rand(1, 1, 20, 20, 20, generator=generator)
    image = torch.rand(1, 1, 20, 20, 20, generator=generator)
    image[..., 10:] = 0.9
    with pytest.raises(AssertionError, match="NCC"):
        neurite.nn.modules.NCC(9)(flat, image)
    identity = identity_map(image.shape[2:], image)
    losses = Losses(9, 1.0)(flat, image, 0 * identity)
    assert 0 < losses["similarity"] <= 1
    assert losses["regularisation"] == 0


def test_learning_lowers_the_loss_of_a_pair():
    torch.manual_seed(0)
    fixed, moving = (torch.from_numpy(blob(s, 1.1)[0])[None, None] for s in (0.0, 0.2))
    model, losses, values = VoxelMorph(FEATURES, 7), Losses(9, 0.1), []
    optimiser = torch.optim.Adam(model.net.parameters(), lr=1e-2)
    for _ in range(60):
        optimiser.zero_grad()
        result = model(fixed, moving)
        loss = losses(fixed, result.warped, result.velocity)
        loss["total"].backward()
        optimiser.step()
        values.append(float(loss["total"].detach()))
    assert values[-1] < 0.7 * values[0]


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    return write_cohort(tmp_path_factory.mktemp("cohort"))


@pytest.fixture(scope="module")
def affine_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("affine") / "model.pt"
    front = affine_front(torch.eye(3), torch.tensor([0.05, 0.0, 0.0]))
    save_checkpoint(path, describe_model(front.model, SHAPE, ("affine",)))
    return path


def history(folder):
    with (folder / "history.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    return [{k: v for k, v in row.items() if k not in ("seconds", "memory_mb")} for row in rows]


@pytest.mark.parametrize("front", [False, True], ids=["alone", "affine"])
def test_a_resumed_training_equals_an_unbroken_one(
    cohort, affine_file, tmp_path, monkeypatch, front
):
    context = Training("both", 7, 1, (1,), (affine_file,) if front else ())
    unbroken = training.train(cohort, tmp_path / "unbroken", parameters(), context)
    score, calls = Validation.score, []

    def kill(self, find_map):
        calls.append(1)
        if len(calls) == 3:  # before training, after one epoch, after the second
            raise KeyboardInterrupt
        return score(self, find_map)

    with monkeypatch.context() as patch:
        patch.setattr(Validation, "score", kill)
        with pytest.raises(KeyboardInterrupt):
            training.train(cohort, tmp_path / "killed", parameters(), context)
    torch.rand(7)  # the global generator's state must not matter
    resumed = training.train(cohort, tmp_path / "killed", parameters(), context)
    assert unbroken.steps == resumed.steps == 8 + 1
    assert unbroken.precision == resumed.precision == "float32"
    rows = history(tmp_path / "unbroken")
    assert history(tmp_path / "killed") == rows and len(rows) == 3
    ours, theirs = (load_checkpoint(tmp_path / n / "last.pt") for n in ("killed", "unbroken"))
    for name in ("weights", "own_weights", "average", "optimiser"):
        torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=0)
    assert unbroken.curve.stat().st_size > 1000

    best = max(float(row["validation_dice"]) for row in rows)
    assert load_checkpoint(unbroken.model)["epoch"] == next(
        int(row["epoch"]) for row in rows if float(row["validation_dice"]) == best
    )
    _registers(unbroken.model, context.models)


def test_other_scans_are_not_gone_on_with(cohort, tmp_path):
    context = Training("both", 7, 1, (1,))
    training.train(cohort, tmp_path, parameters(), context)
    fewer = cohort.with_name("fewer.csv")
    fewer.write_text(cohort.read_text().replace("s0,v0,train", "s0,v0,test"))
    with pytest.raises(UserError, match=r"last\.pt: made with other data"):
        training.train(fewer, tmp_path, parameters(), context)


def test_training_goes_on_from_a_model(cohort, tmp_path):
    """Its weights may be in half precision; the last phase is trained, for fewer epochs."""
    torch.manual_seed(3)
    content = voxelmorph.describe(VoxelMorph(FEATURES, 7), SHAPE, parameters())
    content["weights"] = {name: weight.half() for name, weight in content["weights"].items()}
    save_checkpoint(tmp_path / "start.pt", content)
    settings = {"momentum.more_epochs": 1, "momentum.more_batches": 2, "momentum.more_rate": 1e-4}
    params = parameters()
    params["settings"] |= settings
    context = Training("both", 7, 1, (1,), start=tmp_path / "start.pt")
    assert training.train(cohort, tmp_path, params, context).steps == 2
    last = load_checkpoint(tmp_path / "last.pt")
    assert [row["epoch"] for row in last["rows"]] == [0, 1]
    for own, (name, start) in zip(last["own_weights"], content["weights"].items(), strict=True):
        moved = (own - start).abs().max()  # by Adam, at most by the rate in each step
        assert moved < 2.1e-4 and (name.startswith("out_layer") or moved > 0)


class Recorded:
    """A source of one pair, which the network sees in another contrast than it is judged in."""

    shape = SHAPE

    def __init__(self):
        self.phases = []

    def draw(self, phase, epoch, generator):
        self.phases.append((phase.scale, epoch))

    def pairs(self, drawn, device):
        fixed, moving = both_directions(
            *(torch.from_numpy(blob(s, 1.1)[0])[None, None] for s in (0.0, 0.2))
        )
        return Pairs(1 - fixed, 1 - moving, fixed, moving)


def test_training_images_may_come_from_elsewhere(cohort, tmp_path):
    source = Recorded()
    context = Training("both", 7, 1, (1,), source=source)
    assert training.train(cohort, tmp_path, parameters(), context).steps == 9
    assert source.phases == [(0.5, 0)] * 8 + [(1.0, 1)]


def test_losses_compare_the_judged_images_warped_by_the_map_of_the_seen_ones():
    torch.manual_seed(0)
    pairs = Recorded().pairs(None, None)
    model, losses = VoxelMorph(FEATURES, 7), Losses(9, 0.1)
    torch.nn.init.normal_(model.net.flow_layer.conv0.weight, std=0.5)
    recipe = tiny_recipe()
    found = training.pair_losses(model, losses, pairs, recipe, Phase(), keyed_generator(0))
    result = model(pairs.fixed, pairs.moving)
    moved = warp_tensor(pairs.judged_moving, result.map)
    expected = losses(pairs.judged_fixed, moved, result.velocity)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)
    seen = losses(pairs.fixed, result.warped, result.velocity)
    assert abs(seen["similarity"] - expected["similarity"]).item() > 1e-3


def test_training_starts_at_the_affine_map_and_its_inverse(monkeypatch):
    """As AVSM's deformable part does, disturbed alike in both directions."""
    matrix, offset = torch.eye(3) * 1.1, torch.tensor([0.1, -0.05, 0.08])
    model, starts = VoxelMorph(FEATURES, 7, affine_front(matrix, offset)), []
    forward = model.forward
    monkeypatch.setattr(
        model, "forward", lambda f, m, start=None: starts.append(start) or forward(f, m, start)
    )
    recipe, pairs = tiny_recipe(), Recorded().pairs(None, None)
    losses = Losses(9, 0.1)
    training.pair_losses(model, losses, pairs, recipe, Phase(), keyed_generator(1))
    spread = recipe.augmentation
    error = random_affine(1, spread, keyed_generator(1), spread.error)
    expected = compose_affine(Affine(matrix[None], offset[None]), error)
    for parts in zip(starts[0], expected, invert_affine(expected), strict=True):
        torch.testing.assert_close(parts[0], torch.cat(parts[1:]))


def _registers(model, others):
    """Check that a trained model loads and that its field gives the network's own warped image."""
    fixed, moving = (
        blobs(oblique_grid(SHAPE[::-1], origin=origin)) for origin in ((0, 1, 2), (30, -5, 9))
    )
    context = Context(1, 1, None, models=(model, *others))
    loaded = voxelmorph.prepare({"device": "cpu"}, context)
    seen = []
    loaded.model.register_forward_hook(lambda _, __, result: seen.append(result.warped))
    result = voxelmorph.register(fixed, moving, {}, Context(1, 1, None, prepared=loaded))
    ours = to_grid(
        warp_image(moving, result.displacement, outside=0.0), SHAPE, "warped", normalised=True
    )
    inner = (slice(1, -1),) * 3
    np.testing.assert_allclose(ours[inner], seen[0][0, 0].numpy()[inner], atol=1e-4)


def test_a_model_is_not_loaded_for_what_it_is_not(affine_file, tmp_path):
    with pytest.raises(UserError, match="expected a model of VoxelMorph"):
        voxelmorph.load(affine_file)
    model = VoxelMorph(FEATURES, 7, precision="float32")
    path = tmp_path / "model.pt"
    save_checkpoint(path, voxelmorph.describe(model, SHAPE, parameters()))
    assert voxelmorph.load(path).shape == SHAPE
    assert voxelmorph.load(path).model.precision == "float32"
    with pytest.raises(UserError, match="trained without an affine network in front, but found"):
        voxelmorph.load(path, affine_front(torch.eye(3), torch.zeros(3)))
