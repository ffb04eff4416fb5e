"""What a run refuses to go on from: other data, another affine network, other networks."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pytest
import torch

from avsm.errors import UserError
from avsm.images import read_image, write_image
from avsm.model import load_checkpoint, load_model
from avsm.train import train
from avsm.trainer import Trainer
from tests.unit.avsm.knees import tiny_recipe, write_cohort

FEW = tiny_recipe(epochs=1, batches=2)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cohort(tmp_path_factory.mktemp("cohort"))


@pytest.fixture(scope="module")
def finished(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    train(cohort, folder, FEW, device="cpu")
    return folder


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A finished run, free to change."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def affine_weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    weights = load_checkpoint(checkpoint)["weights"]
    return {name: weight for name, weight in weights.items() if name.startswith("affine_net")}


def test_other_scans_are_refused(cohort: Path, run: Path) -> None:
    with cohort.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    fewer = cohort.with_name("fewer.csv")
    with fewer.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows[1:])
    with pytest.raises(UserError, match=r"affine/last\.pt: made with other data:\n  - scans: "):
        train(fewer, run, FEW, device="cpu")
    moved = shutil.copytree(cohort.parent, run / "moved") / cohort.name
    train(moved, run, FEW, device="cpu")  # the same scans in another folder
    image = read_image(moved.with_name(rows[0]["image"]))
    write_image(image * 0.5, moved.with_name(rows[0]["image"]))
    with pytest.raises(UserError, match=r"made with other data:\n  - voxels: "):
        train(moved, run, FEW, device="cpu")


def test_momentum_network_does_not_go_on_behind_another_affine_network(
    cohort: Path, run: Path
) -> None:
    longer = FEW.change({"affine.epochs": 3, "affine.rate": FEW.affine.rate})
    before = affine_weights(run / "momentum" / "last.pt")
    train(cohort, run, longer, ["affine"], device="cpu")
    last = run / "affine" / "best.pt"
    torch.save(load_checkpoint(run / "affine" / "last.pt"), last)  # whichever epoch was best
    with pytest.raises(UserError, match="Train the momentum network anew"):
        train(cohort, run, longer, device="cpu")
    kept = affine_weights(run / "momentum" / "last.pt")
    assert all(torch.equal(kept[name], weight) for name, weight in before.items())
    train(cohort, run, longer, ["momentum"], resume=False, device="cpu")
    now, wanted = (affine_weights(path) for path in (run / "momentum" / "best.pt", last))
    assert all(torch.equal(now[name], weight) for name, weight in wanted.items())


def test_checkpoint_holds_trained_networks_alone(cohort: Path, tmp_path: Path) -> None:
    best = train(cohort, tmp_path / "run", FEW, ["affine"], device="cpu")
    weights = load_checkpoint(best)["weights"]
    assert weights and all(name.startswith("affine_net.") for name in weights)
    loaded = load_model(best)
    assert loaded.trained == ("affine",)
    now = loaded.model.affine_net.state_dict()
    assert all(torch.equal(now[name.split(".", 1)[1]], w) for name, w in weights.items())


def test_affine_training_says_that_the_momentum_network_is_of_another(
    cohort: Path, run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train(cohort, run, FEW, ["affine"], resume=False, device="cpu")
    assert "train the momentum network anew" in caplog.text


def test_no_resume_starts_anew(cohort: Path, run: Path) -> None:
    other = FEW.change({"momentum.rate": 1e-4})
    train(cohort, run, other, ["momentum"], resume=False, device="cpu")
    assert load_checkpoint(run / "momentum" / "last.pt")["recipe"]["momentum"]["rate"] == 1e-4


def test_warm_start_needs_the_same_layers(cohort: Path, run: Path, tmp_path: Path) -> None:
    other = FEW.change({"model.affine.scale": 1})  # the weights would fit
    with pytest.raises(UserError, match=r"another affine network:\n  - scale: 0\.5 before, 1 now"):
        train(cohort, tmp_path / "new", other, ["momentum"], start=[run], device="cpu")


def test_warm_start_takes_from_each_model_what_was_trained(
    cohort: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The later model was trained for the affine network alone: its other one is left out."""
    train(cohort, tmp_path / "other", FEW.change({"seed": 1}), ["affine"], device="cpu")
    starts = [run / "momentum" / "last.pt", tmp_path / "other" / "affine" / "last.pt"]
    found: dict[str, torch.Tensor] = {}

    def stop(self, previous):
        found.update(self.task.describe()["weights"])
        raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "run", stop)
    with pytest.raises(KeyboardInterrupt):
        train(cohort, tmp_path / "new", FEW, ["momentum"], start=starts, device="cpu")
    first, second = (load_checkpoint(path)["weights"] for path in starts)
    for name, weight in found.items():
        taken, left = (second, first) if name.startswith("affine_net") else (first, second)
        assert torch.equal(weight, taken[name])
        if name in left and not name.endswith("bias"):
            assert not torch.equal(weight, left[name])
