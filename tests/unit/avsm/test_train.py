"""Training: resuming, learning, what it writes, settings and their errors."""

from __future__ import annotations

import csv
import dataclasses
import math
import threading
from pathlib import Path

import pytest
import torch

from avsm.affine import (
    Affine,
    affine_from_residual,
    affine_regularisation_weight,
    identity_affine,
)
from avsm.align import align_group
from avsm.augment import (
    change,
    invert_affine,
    keyed_generator,
    random_affine,
    random_shapes,
    resample,
)
from avsm.checkpoint import load_checkpoint, load_model
from avsm.data import ImageStore
from avsm.errors import UserError
from avsm.loading import draw_batch
from avsm.losses import both_directions
from avsm.manifest import read_manifest
from avsm.maps import affine_part, identity_map, warp
from avsm.model import AVSM
from avsm.objectives import Setup, batch_losses, distance, draw_pairs
from avsm.pairs import PairSampler
from avsm.recipe import Augmentation, Phase, StageRecipe
from avsm.similarity import ncc_loss
from avsm.stage import StageRun
from avsm.train import fit_grid, train
from avsm.validate import Validation, dice
from tests.unit.avsm.knees import SHAPE, TINY, tiny_recipe, write_cohort, write_couples


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

    def kill(self, model, steps):
        nonlocal calls
        calls += 1
        if calls == killed_at:
            raise KeyboardInterrupt
        return score(self, model, steps)

    with monkeypatch.context() as patch:
        patch.setattr(Validation, "score", kill)
        with pytest.raises(KeyboardInterrupt):
            train(cohort, tmp_path, tiny_recipe(), device="cpu")
    torch.rand(7)  # the global generator's state must not matter
    train(cohort, tmp_path, tiny_recipe(), device="cpu")
    assert history(tmp_path) == history(unbroken)
    for stage in ("affine", "momentum"):
        ours, theirs = (load_checkpoint(f / stage / "last.pt") for f in (tmp_path, unbroken))
        torch.testing.assert_close(ours["weights"], theirs["weights"], rtol=0, atol=0)
        assert ours["step"] == theirs["step"] == 8


def test_reading_in_the_background_changes_nothing(
    cohort: Path, unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU: the next batch is drawn while the network computes."""
    threads = set()

    def watched(*arguments):
        threads.add(threading.current_thread())
        return draw_batch(*arguments)

    class Elsewhere:
        """The processor, which says that it is none."""

        type = "elsewhere"

    def run(stage: StageRun, *arguments, **named):
        place, stage.device = stage.device, Elsewhere
        monkeypatch.setattr("avsm.history.peak_memory_mb", lambda device: 0.0)
        rows = whole(stage, *arguments, **named)
        stage.device = place
        return rows

    whole = StageRun.run
    monkeypatch.setattr(StageRun, "run", run)
    monkeypatch.setattr("avsm.objectives.draw_batch", watched)
    train(cohort, tmp_path, tiny_recipe(), device="cpu")
    assert threading.main_thread() not in threads and len(threads) > 1
    assert history(tmp_path) == history(unbroken)


def test_only_listed_couples_are_trained_on(
    cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = write_couples(cohort, [("cross-subject", "s0_v0", "s1_v0")])
    seen = set()

    def watched(*arguments):
        batch = draw_batch(*arguments)
        seen.update(zip(batch.first, batch.second, strict=True))
        return batch

    monkeypatch.setattr("avsm.objectives.draw_batch", watched)
    recipe = dataclasses.replace(tiny_recipe(), alignment=0)
    train(cohort, tmp_path, recipe, ["momentum"], device="cpu", couples=listed)
    assert seen == {(0, 1), (1, 0)}
    with pytest.raises(UserError, match="other data"):
        train(cohort, tmp_path, recipe, ["momentum"], device="cpu")


@pytest.mark.parametrize("iterations", [1, 2])
def test_alignment_may_be_short(cohort: Path, tmp_path: Path, iterations: int) -> None:
    """With one iteration none is left for the smaller images."""
    scans = [scan for scan in read_manifest(cohort) if scan.split == "train"]
    found = align_group(ImageStore(scans, tmp_path), iterations, torch.device("cpu"))
    assert found.matrix.shape == (len(scans), 3, 3)
    assert (found.matrix - torch.eye(3)).abs().max() > 0


def test_a_run_writes_history_curve_and_weights(unbroken: Path) -> None:
    rows = history(unbroken)
    assert [(row["stage"], row["epoch"]) for row in rows] == [
        *[("affine", str(epoch)) for epoch in range(3)],
        *[("momentum", str(epoch)) for epoch in range(3)],
    ]
    assert rows[1]["known"] and not rows[1]["similarity"]
    assert rows[2]["similarity"] and rows[5]["symmetry"]
    assert (unbroken / "history.png").stat().st_size > 1000
    best = max(float(row["validation_dice"]) for row in rows[3:])
    content = load_checkpoint(unbroken / "momentum" / "best.pt")
    assert content["rows"][-1]["validation_dice"] == pytest.approx(best)
    assert not list(unbroken.rglob(".partial*"))


def test_model_loads_by_its_folder(unbroken: Path) -> None:
    trained = load_model(unbroken)
    assert trained.shape == SHAPE
    assert trained.trained == ("affine", "momentum")
    assert load_model(unbroken / "affine").trained == ("affine",)


def test_momentum_stage_leaves_the_affine_network_alone(unbroken: Path) -> None:
    first = load_checkpoint(unbroken / "affine" / "best.pt")["weights"]
    last = load_checkpoint(unbroken / "momentum" / "last.pt")["weights"]
    for name, weight in first.items():
        if name.startswith("affine_net"):
            assert torch.equal(weight, last[name])
    assert any(not torch.equal(weight, last[name]) for name, weight in first.items())


def test_another_recipe_is_not_resumed(cohort: Path, unbroken: Path) -> None:
    other = tiny_recipe().change({"affine.rate": 1e-4})
    with pytest.raises(UserError, match=r"affine\.rate: 0\.002 before, 0\.0001 now"):
        train(cohort, unbroken, other, device="cpu")


def test_learning_lowers_the_loss_and_raises_dice(cohort: Path, tmp_path: Path) -> None:
    recipe = dataclasses.replace(
        tiny_recipe(),
        augmentation=Augmentation(),
        affine=StageRecipe(
            phases=(Phase(steps=2, pairs=2),), epochs=3, batches=30, rate=3e-3, schedule="cosine"
        ),
        momentum=StageRecipe(phases=(Phase(steps=1, pairs=2),), epochs=2, batches=15, rate=5e-3),
    )
    train(cohort, tmp_path, recipe, device="cpu")
    rows = history(tmp_path)
    affine, momentum = rows[:4], rows[4:]
    assert float(affine[-1]["total"]) < 0.8 * float(affine[1]["total"])
    assert float(affine[-1]["validation_dice"]) > float(affine[0]["validation_dice"]) + 0.05
    assert float(momentum[-1]["total"]) < float(momentum[1]["total"])


def test_momentum_network_alone_raises_dice(cohort: Path, tmp_path: Path) -> None:
    """Behind an untrained affine network, which is the identity, all is left to do."""
    phases = (Phase(steps=2, pairs=2),)
    stage = StageRecipe(phases=phases, epochs=2, batches=30, rate=1e-3, clip=1.0)
    recipe = dataclasses.replace(tiny_recipe(), augmentation=Augmentation(), momentum=stage)
    train(cohort, tmp_path, recipe, ["momentum"], device="cpu")
    before, *_, after = (float(row["validation_dice"]) for row in history(tmp_path))
    assert after > before + 0.1


def drawn_losses(setup: Setup, epoch: int, seed: int) -> dict[str, torch.Tensor]:
    """Give the losses of a batch of the affine network's."""
    batch = draw_pairs(setup, "affine", Phase(), epoch, keyed_generator(seed))
    return batch_losses(setup, "affine", batch)


def test_affine_regularisation_decays_by_epochs(cohort: Path, tmp_path: Path) -> None:
    """The same batch in two epochs: its regularisation falls as Eq. 13 does."""
    recipe = tiny_recipe().change({"lambda_ar": 10.0})
    scans = [scan for scan in read_manifest(cohort) if scan.split == "train"]
    model = AVSM(TINY)
    torch.nn.init.normal_(model.affine_net.last.bias, std=0.1)
    sampler = PairSampler(scans, recipe.task)
    setup = Setup(recipe, model, ImageStore(scans, tmp_path), sampler, torch.device("cpu"))
    first, later = (drawn_losses(setup, epoch, 0) for epoch in (0, 8))
    assert first["regularisation"] > 0 and torch.equal(first["similarity"], later["similarity"])
    decay = affine_regularisation_weight(8) / affine_regularisation_weight(0)
    assert (later["regularisation"] / first["regularisation"]).item() == pytest.approx(decay)


def test_similarity_may_be_plain_ncc(cohort: Path, tmp_path: Path) -> None:
    """Behind an affine network that is the identity the loss is that of the images as drawn."""
    scans = [scan for scan in read_manifest(cohort) if scan.split == "train"]
    store = ImageStore(scans, tmp_path)
    losses = {}
    for similarity in ("ncc", "mk-lncc"):
        recipe = tiny_recipe().change({"similarity": similarity})
        recipe = dataclasses.replace(recipe, augmentation=Augmentation())
        sampler = PairSampler(scans, recipe.task)
        setup = Setup(recipe, AVSM(TINY), store, sampler, torch.device("cpu"))
        losses[similarity] = drawn_losses(setup, 0, 4)
    first, second = PairSampler(scans, "cross-subject").draw(1, keyed_generator(4))
    images = store.batch([*first, *second], 1, torch.device("cpu"))
    fixed, moving = both_directions(*images.chunk(2))
    expected = 2 * ncc_loss(moving, fixed).mean()  # both directions are added
    torch.testing.assert_close(losses["ncc"]["similarity"], expected)
    assert losses["ncc"]["similarity"] != losses["mk-lncc"]["similarity"]


def test_grid_follows_the_images_axes() -> None:
    wide = dataclasses.replace(TINY, affine=dataclasses.replace(TINY.affine, grid=(3, 6, 6)))
    assert fit_grid(wide, (80, 192, 192)).affine.grid == (3, 6, 6)
    assert fit_grid(wide, (192, 192, 80)).affine.grid == (6, 6, 3)
    assert fit_grid(wide, (64, 64, 64)).affine.grid == (3, 6, 6)


def test_keyed_generators_repeat_and_differ() -> None:
    draws = [torch.rand(3, generator=keyed_generator(1, "affine", 2, n)) for n in (3, 3, 4)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_inverse_of_a_random_pose() -> None:
    pose = random_affine(4, Augmentation(turn=0.3, stretch=0.2, shift=0.2), keyed_generator(0))
    inverse = invert_affine(pose)
    matrix = inverse.matrix @ pose.matrix
    offset = (inverse.matrix @ pose.offset[..., None])[..., 0] + inverse.offset
    error = distance(Affine(matrix, offset), identity_affine(4, torch.zeros(1)))
    assert error.max() < 1e-3  # the root of the floor under it


def test_random_shapes_have_no_affine_part() -> None:
    spread = Augmentation(shape=0.05)
    field = random_shapes(2, (24, 20, 22), spread, keyed_generator(0))
    matrix, offset = affine_part(field)
    assert matrix.abs().max() < 0.01
    assert offset.abs().max() < 0.01
    assert 0.03 < float(field.square().mean().sqrt()) < 0.07


def test_pose_of_a_changed_image_is_the_asked_one() -> None:
    image = torch.rand(1, 1, 8, 9, 10, generator=keyed_generator(0))
    pose = affine_from_residual(torch.tensor([[0, 0, 0, 0, 0, 0, 0, 0, 0, 0.1, 0, 0.0]]))
    inner = identity_map(image.shape[2:], image) * 0.5
    pose = Affine(0.5 * pose.matrix, pose.offset)
    expected = warp(image, inner + pose.offset[..., None, None, None])
    torch.testing.assert_close(resample(image, pose), expected)


def test_no_augmentation_changes_nothing() -> None:
    image = torch.rand(2, 1, 8, 8, 8)
    same, pose = change(image, Augmentation(), keyed_generator(0))
    assert same is image
    assert torch.equal(pose.matrix, torch.eye(3).expand(2, 3, 3))


def test_distance_is_the_mean_over_the_volume() -> None:
    generator = keyed_generator(0)
    spread = Augmentation(turn=0.3, stretch=0.2, shift=0.2)
    a, b = (random_affine(1, spread, generator) for _ in range(2))
    shape = (60, 61, 62)
    brute = (a.map(shape) - b.map(shape)).square().sum(dim=1).mean().sqrt()
    # Voxels at both ends of a coarse grid count fully: 2 per cent more than the integral.
    assert float(distance(a, b)) == pytest.approx(float(brute), rel=0.03)


def test_dice_by_hand() -> None:
    fixed = torch.tensor([1, 1, 2, 0])
    warped = torch.tensor([1, 0, 2, 2])
    assert dice(fixed, warped, (1, 2)) == pytest.approx((2 / 3 + 2 / 3) / 2)
    assert dice(fixed, warped, (1, 2, 3)) == pytest.approx(2 / 3)
    assert math.isnan(dice(fixed, warped, (3,)))
