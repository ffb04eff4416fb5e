"""Training: resuming, learning, what it writes, where images come from, the losses of batches."""

from __future__ import annotations

import csv
import dataclasses
import math
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from avsm.data import ImageStore, Pairs, ScanSource, Validation, dice, validate
from avsm.errors import UserError
from avsm.losses import affine_deviation, affine_regularisation_weight, both_directions, ncc_loss
from avsm.maps import Affine, compose_affine, downsample, identity_map, invert_affine, warp
from avsm.model import AVSM, load_checkpoint, load_model
from avsm.pairs import keyed_generator, random_affine, random_start
from avsm.settings import Augmentation, Phase, Recipe, Stage
from avsm.train import (
    affine_stage,
    deformable_start,
    he_weights,
    momentum_stage,
    new_model,
    similarity_loss,
    train,
)
from avsm.trainer import Trainer
from tests.unit.avsm.knees import SHAPE, blob, tiny_recipe, write_cohort, write_couples

STEPS = {"affine": 8 + 8, "momentum": 8 + 2}  # epochs at half the resolution have 8 batches


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cohort(tmp_path_factory.mktemp("cohort"))


def history(folder: Path) -> list[dict[str, str]]:
    with (folder / "history.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    return [{k: v for k, v in row.items() if k not in ("seconds", "memory_mb")} for row in rows]


@pytest.fixture(scope="module")
def unbroken(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unbroken")
    train(cohort, folder, tiny_recipe(), device="cpu")
    return folder


# Scores are taken before and after each epoch: the third call of a stage is its second epoch's.
@pytest.mark.parametrize("killed_at", [3, 6])
def test_resumed_run_equals_an_unbroken_one(
    cohort: Path,
    unbroken: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    killed_at: int,
) -> None:
    calls = 0
    score = Validation.score

    def kill(self, find_map):
        nonlocal calls
        calls += 1
        if calls == killed_at:
            raise KeyboardInterrupt
        return score(self, find_map)

    with monkeypatch.context() as patch:
        patch.setattr(Validation, "score", kill)
        with pytest.raises(KeyboardInterrupt):
            train(cohort, tmp_path, tiny_recipe(), device="cpu")
    torch.rand(7)  # the global generator's state must not matter
    train(cohort, tmp_path, tiny_recipe(), device="cpu")
    assert history(tmp_path) == history(unbroken)
    for stage, steps in STEPS.items():
        ours, theirs = (load_checkpoint(f / stage / "last.pt") for f in (tmp_path, unbroken))
        for name in ("weights", "own_weights", "average", "optimiser"):
            torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=0)
        assert ours["step"] == theirs["step"] == steps


def test_drawing_in_the_background_changes_nothing(
    cohort: Path, unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU: the next batch is drawn while the network computes."""
    threads = set()
    draw, pairs, run = ScanSource.draw, ScanSource.pairs, Trainer.run

    def watched(self, *arguments):
        threads.add(threading.current_thread())
        return draw(self, *arguments)

    def elsewhere(self, previous=None):
        self.device = SimpleNamespace(type="elsewhere")  # the processor, which denies it
        return run(self, previous)

    monkeypatch.setattr(ScanSource, "draw", watched)
    monkeypatch.setattr(ScanSource, "pairs", lambda self, drawn, _: pairs(self, drawn, "cpu"))
    monkeypatch.setattr(Trainer, "run", elsewhere)
    train(cohort, tmp_path, tiny_recipe(), device="cpu")
    assert threads and threading.main_thread() not in threads
    assert history(tmp_path) == history(unbroken)


def test_only_listed_couples_are_trained_on(
    cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = write_couples(cohort, [("cross-subject", "s0_v0", "s1_v0")])
    seen, score = set(), SimpleNamespace(dice=0.5, folds_percent=0.0)
    read = ImageStore.read

    def watched(self, indices, scale=1.0):
        half = len(indices) // 2
        seen.update(zip(indices[:half], indices[half:], strict=True))
        return read(self, indices, scale)

    recipe = tiny_recipe()
    with monkeypatch.context() as patch:
        patch.setattr(ImageStore, "read", watched)
        patch.setattr(Validation, "score", lambda *arguments: score)
        train(cohort, tmp_path, recipe, ["momentum"], device="cpu", couples=listed)
    assert seen == {(0, 1), (1, 0)}
    with pytest.raises(UserError, match="other data"):
        train(cohort, tmp_path, recipe, ["momentum"], device="cpu")


def test_a_run_writes_history_curve_and_weights(unbroken: Path) -> None:
    rows = history(unbroken)
    assert [(row["stage"], row["epoch"]) for row in rows] == [
        *[("affine", str(epoch)) for epoch in range(3)],
        *[("momentum", str(epoch)) for epoch in range(3)],
    ]
    assert [row["batches"] for row in rows] == ["0", "8", "8", "0", "8", "2"]
    assert not rows[3]["similarity"] and rows[4]["similarity"] and rows[5]["symmetry"]
    assert {row["precision"] for row in rows} == {"float32"}
    assert (unbroken / "history.png").stat().st_size > 1000
    best = max(float(row["validation_dice"]) for row in rows[3:])
    content = load_checkpoint(unbroken / "momentum" / "best.pt")
    assert content["rows"][-1]["validation_dice"] == pytest.approx(best)
    assert content["precision"] == "float32"
    assert not list(unbroken.rglob(".partial*"))


def test_averaged_weights_are_what_is_kept(unbroken: Path) -> None:
    content = load_checkpoint(unbroken / "affine" / "last.pt")
    kept = [v for name, v in content["weights"].items() if name.startswith("affine_net")]
    assert len(kept) == len(content["average"])
    assert all(map(torch.equal, kept, content["average"]))
    assert not all(map(torch.equal, kept, content["own_weights"]))


def test_model_loads_by_its_folder(unbroken: Path) -> None:
    trained = load_model(unbroken)
    assert trained.shape == SHAPE
    assert trained.trained == ("affine", "momentum")
    assert load_model(unbroken / "affine").trained == ("affine",)


def test_momentum_stage_leaves_the_affine_network_alone(unbroken: Path) -> None:
    first = load_checkpoint(unbroken / "affine" / "best.pt")["weights"]
    last = load_checkpoint(unbroken / "momentum" / "last.pt")["weights"]
    assert all(torch.equal(weight, last[name]) for name, weight in first.items())
    assert any(last[name].any() for name in last if name.startswith("momentum_net.last"))


def test_another_recipe_is_not_resumed(cohort: Path, unbroken: Path) -> None:
    other = tiny_recipe().change({"affine.rate": 1e-4})
    with pytest.raises(UserError, match=r"affine\.rate: 0\.002 before, 0\.0001 now"):
        train(cohort, unbroken, other, device="cpu")


@pytest.mark.parametrize(
    ("name", "phase", "batches"),
    [
        ("affine", Phase(steps=2, pairs=2, scale=0.5), 7),  # 28 an epoch
        # Behind an untrained affine network, which is the identity, all is left to do.
        ("momentum", Phase(pairs=2), 40),  # 20 an epoch
    ],
)
def test_learning_lowers_the_loss_and_raises_dice(
    cohort: Path, tmp_path: Path, name: str, phase: Phase, batches: int
) -> None:
    stage = Stage(
        phases=(phase,), epochs=3, batches=batches, rate=2e-3, schedule="cosine", warmup=0.2,
        clip=1.0,
    )  # fmt: skip
    recipe = dataclasses.replace(tiny_recipe(), augmentation=Augmentation(), **{name: stage})
    train(cohort, tmp_path, recipe, [name], device="cpu")
    before, first, *_, last = history(tmp_path)
    assert float(last["total"]) < 0.9 * float(first["total"])
    assert float(last["validation_dice"]) > float(before["validation_dice"]) + 0.1


# Images from elsewhere


class TwoContrasts:
    """One pair, which networks see in another contrast than the similarity compares."""

    shape = SHAPE

    def __init__(self) -> None:
        self.drawn: list[tuple[Phase, int]] = []

    def draw(self, phase: Phase, epoch: int, generator: torch.Generator) -> float:
        self.drawn.append((phase, epoch))
        return float(torch.rand(1, generator=generator))

    def pairs(self, drawn: float, device: torch.device) -> Pairs:
        fixed, moving = both_directions(*images())
        return Pairs(1 - fixed, 0.5 * (1 - moving), fixed, moving)


def images() -> tuple[torch.Tensor, torch.Tensor]:
    """A fixed and a moving image."""
    fixed, moving = (torch.from_numpy(blob(s, 1.1)[0])[None, None] for s in (0.0, 0.15))
    return fixed, moving


def moving_model(recipe: Recipe) -> AVSM:
    """A model whose networks move images, seen ones here and there otherwise."""
    model = new_model(recipe)
    generator = keyed_generator("moving")
    nn.init.normal_(model.affine_net.last.weight, std=0.02, generator=generator)
    nn.init.normal_(model.momentum_net.last[-1].weight, std=0.02, generator=generator)
    return model


def test_networks_see_one_contrast_and_the_similarity_compares_another() -> None:
    recipe = dataclasses.replace(tiny_recipe(), augmentation=Augmentation())
    model, phase = moving_model(recipe), Phase(steps=2)
    fixed, moving, *judged = pairs = TwoContrasts().pairs(0.0, torch.device("cpu"))

    def compared(phi: torch.Tensor, fixed: torch.Tensor, moving: torch.Tensor) -> torch.Tensor:
        return 2 * similarity_loss(warp(moving, phi), fixed, recipe).mean()  # both directions

    losses = affine_stage(model, pairs, recipe, phase, 0, keyed_generator(0))
    maps = [affine.map(SHAPE) for affine in model.affine_net(fixed, moving, 2)]
    expected = sum(compared(phi, *judged) for phi in maps) / 2
    torch.testing.assert_close(losses["similarity"], expected)
    seen = sum(compared(phi, fixed, moving) for phi in maps) / 2
    assert (seen - expected).abs().detach() > 1e-3

    recipe = dataclasses.replace(recipe, start="network")
    losses = momentum_stage(model, pairs, recipe, phase, 0, keyed_generator(0))
    maps = [step.map for step in model(fixed, moving, steps=2).steps]
    torch.testing.assert_close(losses["similarity"], sum(compared(phi, *judged) for phi in maps))


def test_a_phase_takes_no_more_steps_than_the_model() -> None:
    """Table 2 trains single steps by the phases of several."""
    recipe = tiny_recipe().change({"model.affine_steps": 1, "model.steps": 1})
    model, pairs = moving_model(recipe), TwoContrasts().pairs(0.0, torch.device("cpu"))
    for stage in (affine_stage, momentum_stage):
        one, many = (
            stage(model, pairs, recipe, Phase(steps=steps), 0, keyed_generator(0))["total"]
            for steps in (1, 5)
        )
        assert torch.equal(one, many)


def test_coarse_steps_are_judged_at_their_own_resolution() -> None:
    recipe = tiny_recipe().change({"start": "network", "model.step_scales": [0.5, 1.0]})
    recipe = dataclasses.replace(recipe, augmentation=Augmentation())
    model, phase = moving_model(recipe), Phase(steps=2)
    fixed, moving, *judged = pairs = TwoContrasts().pairs(0.0, torch.device("cpu"))
    losses = momentum_stage(model, pairs, recipe, phase, 0, keyed_generator(0))
    coarse, fine = (step.map for step in model(fixed, moving, steps=2).steps)
    expected = 0.0
    for phi, scale in ((coarse, 0.5), (fine, 1.0)):
        target, source = (downsample(image, scale) for image in judged)
        expected += 2 * similarity_loss(warp(source, phi), target, recipe).mean()
    torch.testing.assert_close(losses["similarity"], expected)


def test_a_source_takes_the_place_of_the_training_scans(cohort: Path, tmp_path: Path) -> None:
    source, recipe = TwoContrasts(), tiny_recipe()
    train(cohort, tmp_path, recipe, ["momentum"], device="cpu", source=source)
    first, second = recipe.momentum.phases
    assert source.drawn == [(first, 0)] * 8 + [(second, 1)] * 2
    assert load_model(tmp_path).shape == SHAPE
    source.shape = (20, 18, 15)
    with pytest.raises(UserError, match=r"training images' grid \(z, y, x\) \(20, 18, 15\)"):
        train(cohort, tmp_path / "new", recipe, device="cpu", source=source)


# The losses of a batch


def usual_pairs() -> Pairs:
    fixed, moving = both_directions(*images())
    return Pairs(fixed, moving, fixed, moving)


def test_affine_regularisation_decays_by_epochs() -> None:
    """The same batch in two epochs: its regularisation falls as Eq. 13 does."""
    recipe = tiny_recipe().change({"lambda_ar": 10.0, "decay_ar": 3.0})
    model = moving_model(recipe)
    first, later = (
        affine_stage(model, usual_pairs(), recipe, Phase(), epoch, keyed_generator(0))
        for epoch in (0, 8)
    )
    assert first["regularisation"] > 0 and torch.equal(first["similarity"], later["similarity"])
    decay = affine_regularisation_weight(8, decay=3) / affine_regularisation_weight(0, decay=3)
    assert (later["regularisation"] / first["regularisation"]).item() == pytest.approx(decay)


@pytest.mark.parametrize("every_step", [False, True])
def test_similarity_may_be_plain_ncc_of_the_last_step_or_all(every_step: bool) -> None:
    recipe = dataclasses.replace(
        tiny_recipe(), augmentation=Augmentation(), similarity="ncc", every_step=every_step
    )
    model, pairs = moving_model(recipe), usual_pairs()
    losses = affine_stage(model, pairs, recipe, Phase(steps=2), 0, keyed_generator(0))
    affines = model.affine_net(pairs.fixed, pairs.moving, 2)
    each = [ncc_loss(warp(pairs.moving, a.map(SHAPE)), pairs.fixed).mean() for a in affines]
    expected = 2 * (sum(each) / 2 if every_step else each[-1])  # both directions are added
    torch.testing.assert_close(losses["similarity"], expected)
    assert each[0] != each[1]


def test_affine_steps_start_at_random_maps() -> None:
    """A network of no output leaves them, and they are one another's inverses."""
    recipe = dataclasses.replace(tiny_recipe(), lambda_ar=10.0, decay_ar=4.0)
    losses = affine_stage(new_model(recipe), usual_pairs(), recipe, Phase(), 0, keyed_generator(1))
    start = random_start(1, recipe.augmentation, keyed_generator(1))
    deviation = affine_deviation(start)
    assert deviation.min() > 1e-3  # this seed's is none that stays at the identity
    torch.testing.assert_close(losses["regularisation"], 2 * 8 * deviation.mean())
    assert losses["symmetry"].detach() < 1e-9


def test_deformable_part_starts_at_a_map_and_its_inverse() -> None:
    recipe = tiny_recipe()
    model, pairs = moving_model(recipe), usual_pairs()
    arguments = model.affine_net, pairs.fixed, pairs.moving, 2

    def start(recipe: Recipe) -> Affine:
        return deformable_start(*arguments, recipe, 1.0, keyed_generator(2))

    network = model.affine_net(pairs.fixed, pairs.moving, 2)[-1]
    own = start(dataclasses.replace(recipe, start="network"))
    assert torch.equal(own.matrix, network.matrix) and not own.matrix.requires_grad
    forward = Affine(network.matrix[:1], network.offset[:1])
    exact = start(dataclasses.replace(recipe, augmentation=Augmentation(turn=0.1, shift=0.1)))
    disturbed = start(recipe)
    for found in (exact, disturbed):
        there, back = (Affine(found.matrix[i, None], found.offset[i, None]) for i in (0, 1))
        inverse = invert_affine(there)
        torch.testing.assert_close(back.matrix, inverse.matrix, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(back.offset, inverse.offset, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(exact.matrix[:1], forward.matrix)
    error = random_affine(1, recipe.augmentation, keyed_generator(2), recipe.augmentation.error)
    expected = compose_affine(forward, error)
    assert (expected.matrix - forward.matrix).abs().detach().max() > 1e-3
    torch.testing.assert_close(disturbed.matrix[:1], expected.matrix)
    torch.testing.assert_close(disturbed.offset[:1], expected.offset)


def test_losses_reach_the_network_of_the_stage_alone() -> None:
    recipe = tiny_recipe()
    model = moving_model(recipe)
    momentum_stage(model, usual_pairs(), recipe, Phase(), 0, keyed_generator(3))["total"].backward()
    assert all(p.grad is None for p in model.affine_net.parameters())
    assert all(p.grad.abs().sum() > 0 for p in model.momentum_net.parameters())


# Weights at the start


def test_seed_decides_the_weights() -> None:
    recipe = tiny_recipe()
    torch.manual_seed(8)
    expected = torch.rand(3)
    torch.manual_seed(8)
    first, second = new_model(recipe), new_model(recipe)
    assert torch.equal(torch.rand(3), expected)  # the global generator is left alone
    other = new_model(recipe.change({"seed": 1}))
    weights = [model.momentum_net.first.weight for model in (first, second, other)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_weights_after_he_keep_the_size_of_signals() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        *(layer for _ in range(6) for layer in (nn.Conv3d(24, 24, 3, padding=1), nn.ReLU())),
        nn.Linear(7, 5),
        nn.Linear(5, 5),
    )
    nn.init.zeros_(net[-1].weight)
    nn.init.ones_(net[-1].bias)
    he_weights(net)
    assert not net[-1].weight.any() and net[-1].bias.all()  # a layer of zeros stays
    for layer in net[:-2:2]:
        assert layer.weight.std().item() == pytest.approx((2 / (24 * 27)) ** 0.5, rel=0.05)
        assert not layer.bias.any()
    x = torch.randn(1, 24, 7, 7, 7)
    before = x.square().mean()
    inner = net[:12](x)[..., 2:-2, 2:-2, 2:-2]  # zeros about the image weaken the rest
    assert 0.3 < (inner.square().mean() / before).item() < 3


# Scores


def test_dice_by_hand() -> None:
    fixed = torch.tensor([1, 1, 2, 0])
    warped = torch.tensor([1, 0, 2, 2])
    assert dice(fixed, warped, (1, 2)) == pytest.approx((2 / 3 + 2 / 3) / 2)
    assert dice(fixed, warped, (1, 2, 3)) == pytest.approx(2 / 3)
    assert math.isnan(dice(fixed, warped, (3,)))


def test_score_of_a_known_map() -> None:
    """Read from the far end of an axis, images are mirrored and all voxels fold."""
    label = torch.from_numpy(blob(0.15, 1.1)[1])
    image = label[None, None].float()

    def mirror(fixed: torch.Tensor, moving: torch.Tensor) -> torch.Tensor:
        return identity_map(fixed.shape[2:], fixed) * torch.tensor([-1, 1, 1]).view(3, 1, 1, 1)

    pairs = [(image, image)] * 2
    labels = [(label, label), (label, label.flip(0))]
    score = validate(mirror, pairs, labels, (1,))
    other = dice(label, label.flip(0), (1,))
    assert other < 0.9
    assert score == pytest.approx(((1 + other) / 2, 100))
    same = validate(lambda f, m: identity_map(f.shape[2:], f), pairs[:1], labels[:1], (1,))
    assert same == (1, 0)
