"""The trainer on a problem of two numbers: averages, what is scored and kept, batches left out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from avsm.data import Data, Score
from avsm.errors import UserError
from avsm.model import FORMAT, load_checkpoint
from avsm.pairs import keyed_generator
from avsm.settings import Phase, Stage
from avsm.trainer import SETTLED, SPIKE, UNUSABLE, USUAL, Losses, Task, Trainer, draw_history

CPU = torch.device("cpu")
RATE = 0.125
STAGE = Stage(epochs=3, batches=4, rate=RATE, halve_every=1000)


@pytest.fixture(autouse=True)
def no_curve(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than the rest, and losses below 0 have no logarithm."""
    blank = SimpleNamespace(savefig=lambda path, dpi: path.touch())
    monkeypatch.setattr("avsm.trainer.draw_history", lambda rows: blank)


class Two(nn.Module):
    """Two weights that start at 0, in double precision."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2, dtype=torch.float64))


def downhill(net: Two) -> Callable[..., Losses]:
    """A loss of constant gradient: each of Adam's steps is as long as the rate."""

    def losses(batch: object, phase: Phase, epoch: int, generator: object) -> Losses:
        total = net.weight.sum()
        return {"total": total, "similarity": 2 * total}

    return losses


def numbered(phase: Phase, epoch: int, generator: torch.Generator) -> torch.Tensor:
    return torch.rand(2, generator=generator, dtype=torch.float64)


def score_of(net: Two) -> Score:
    """Score weights: the less, the farther they are from -.5."""
    return Score(1 / (1 + float((net.weight.detach() + 0.5).norm())), 0.0)


def task(
    net: Two,
    losses: Callable[..., Losses] | None = None,
    draw: Callable[..., object] = numbered,
    score: Callable[[], Score] | None = None,
) -> Task:
    """Make a task whose batches are what is drawn."""
    source = SimpleNamespace(draw=draw, pairs=lambda drawn, device: drawn)
    validation = SimpleNamespace(score=lambda find_map: score() if score else score_of(net))
    data = Data(source, validation, {"scans": "none"})

    def describe() -> dict:
        return {"format": FORMAT, "weights": net.state_dict()}

    return Task("two", net, data, losses or downhill(net), lambda *images: None, describe)


def trainer(stage: Stage, folder: Path, what: Task, device: object = CPU) -> Trainer:
    return Trainer(what, stage, 5, folder / "two", folder, device, "float32")


def last(folder: Path) -> dict:
    return load_checkpoint(folder / "two" / "last.pt")


# The moving average


@pytest.mark.parametrize(
    ("average", "lag"),
    [
        (0.0, 0.0),
        # While its decay is n / (n + 9) the average of what grows evenly is nine tenths of it.
        (0.999, 0.1 * 40),
        # Thereafter d / (1 - d) behind; the decay gets there in step 9, and forgets in 20 more.
        (0.5, 1.0),
    ],
)
def test_average_lags_behind_weights_that_grow_evenly(
    tmp_path: Path, average: float, lag: float
) -> None:
    net = Two()
    stage = dataclasses.replace(STAGE, epochs=4, batches=10, average=average)
    trainer(stage, tmp_path, task(net)).run()
    content = last(tmp_path)
    for name, steps in (("own_weights", 40), ("average", 40 - lag)):
        (found,) = content[name]
        assert found.tolist() == pytest.approx([-RATE * steps] * 2, rel=1e-6)
    assert torch.equal(content["weights"]["weight"], content["average"][0])
    assert torch.equal(net.weight.detach(), content["own_weights"][0])


def test_average_forgets_the_weights_it_began_with(tmp_path: Path) -> None:
    """Of weights that stay, what is left after n updates is one part in (n + 9 over 9)."""
    net = Two()
    run = trainer(dataclasses.replace(STAGE, average=0.9), tmp_path, task(net))
    with torch.no_grad():
        net.weight.fill_(1)
    left = 1.0
    for n in range(1, 31):
        run._update_average()
        run.step += 1
        left *= n / (n + 9)
        assert run.average[0].tolist() == pytest.approx([1 - left] * 2, rel=1e-12)
    assert left < 1e-8


def test_averaged_weights_are_scored_and_kept(tmp_path: Path) -> None:
    """The best score is that of the epoch whose average is nearest to -.5."""
    net, scored = Two(), []
    stage = dataclasses.replace(STAGE, average=0.999)

    def score() -> Score:
        scored.append(net.weight.detach().clone())
        return score_of(net)

    trainer(stage, tmp_path, task(net, score=score)).run()
    expected = [-0.9 * RATE * STAGE.batches * epoch for epoch in range(4)]
    assert [float(weight[0]) for weight in scored] == pytest.approx(expected, rel=1e-6)
    best = load_checkpoint(tmp_path / "two" / "best.pt")
    assert best["epoch"] == 1  # at -.45; -.9 and -1.35 are farther
    assert torch.equal(best["weights"]["weight"], scored[1])
    assert float(net.weight[0].detach()) == pytest.approx(-RATE * 12)


# Steps


def test_each_batch_is_drawn_by_its_own_seed_and_phases_follow(tmp_path: Path) -> None:
    net, drawn, used = Two(), [], []
    phases = (Phase(until=0.4, pairs=2), Phase(scale=0.5))
    stage = dataclasses.replace(STAGE, phases=phases, schedule="cosine", epochs=3)

    def draw(phase: Phase, epoch: int, generator: torch.Generator) -> torch.Tensor:
        drawn.append((phase, epoch, float(torch.rand(1, generator=generator))))
        return torch.tensor(float(len(drawn)))

    def losses(batch: torch.Tensor, phase: Phase, epoch: int, generator: object) -> Losses:
        used.append((int(batch), phase, epoch))
        return {"total": net.weight.sum()}

    run = trainer(stage, tmp_path, task(net, draw=draw, losses=losses))
    rows = run.run()
    counts = {0: 2, 1: 2, 2: 32}  # of half the images, and of an eighth of the voxels
    assert drawn == [
        (
            phases[epoch == 2],
            epoch,
            float(torch.rand(1, generator=keyed_generator(5, "two", epoch, number))),
        )
        for epoch, count in counts.items()
        for number in range(count)
    ]
    assert used == [(n + 1, phase, epoch) for n, (phase, epoch, _) in enumerate(drawn)]
    assert [row["batches"] for row in rows] == [0, 2, 2, 32]
    assert run.step == 36
    rates = [stage.rate_at((epoch + 1 - 1 / n) / 3, epoch) for epoch, n in counts.items()]
    assert [row["learning_rate"] for row in rows] == pytest.approx([RATE, *rates])


def test_an_epoch_is_of_one_phase_and_so_are_its_losses(tmp_path: Path) -> None:
    """The second phase begins in the middle of the second epoch; its losses are a hundredfold."""
    net = Two()
    stage = dataclasses.replace(STAGE, phases=(Phase(until=0.5), Phase(steps=2)))

    def losses(batch: object, phase: Phase, epoch: int, generator: object) -> Losses:
        return {"total": 0 * net.weight.sum() + (100.0 if phase.steps == 2 else 1.0)}

    rows = trainer(stage, tmp_path, task(net, losses=losses)).run()
    assert [row["phase"] for row in rows] == [None, 1, 1, 2]
    assert [row["total"] for row in rows[1:]] == [1, 1, 100]
    written = (tmp_path / "history.csv").read_text(encoding="utf-8").splitlines()
    assert [line.split(",")[2] for line in written] == ["phase", "", "1", "1", "2"]
    drawn = draw_history(rows).axes[0].lines
    assert [list(line.get_xdata()) for line in drawn] == [[1, 2], [3]]
    assert [line.get_label() for line in drawn] == ["total", "_total"]


def test_large_gradients_are_scaled_down(tmp_path: Path) -> None:
    net = Two()
    for factor, norm in ((5.0, 1.5), (0.3, 0.3 * 2**0.5)):

        def losses(
            batch: object, phase: Phase, epoch: int, generator: object, factor: float = factor
        ) -> Losses:
            return {"total": factor * net.weight.sum()}

        stage = dataclasses.replace(STAGE, clip=1.5)
        trainer(stage, tmp_path, task(net, losses=losses)).run()
        assert float(net.weight.grad.norm()) == pytest.approx(norm, rel=1e-5)


def unusable_at(net: Two, steps: set[int], kind: str) -> Callable[..., Losses]:
    """Losses of which some, counted from 1, or their gradients, are not finite."""
    count = 0

    def losses(batch: object, phase: Phase, epoch: int, generator: object) -> Losses:
        nonlocal count
        count += 1
        total = net.weight.sum()
        if count in steps:
            if kind == "gradient":  # of the root at 0: 0 / 0
                total = total + (0 * net.weight).sqrt().sum()
            else:  # the gradient stays as it is
                total = total + float(kind)
        return {"total": total, "similarity": torch.tensor(float(count))}

    return losses


@pytest.mark.parametrize("kind", ["nan", "inf", "gradient"])
def test_unusable_batches_are_left_out(tmp_path: Path, kind: str) -> None:
    net = Two()
    stage = dataclasses.replace(STAGE, clip=10.0)
    run = trainer(stage, tmp_path, task(net, losses=unusable_at(net, {2, 6, 7, 8}, kind)))
    rows = run.run()
    (own,) = last(tmp_path)["own_weights"]
    assert own.tolist() == pytest.approx([-RATE * 8] * 2)  # eight steps of twelve
    assert [row["batches"] for row in rows] == [0, 3, 1, 4]
    assert run.step == 12
    similarities = [row["similarity"] for row in rows[1:]]
    assert similarities == pytest.approx([(1 + 3 + 4) / 3, 5, (9 + 10 + 11 + 12) / 4])


@pytest.mark.parametrize("kind", ["nan", "gradient"])
def test_many_unusable_batches_in_a_row_end_the_training(tmp_path: Path, kind: str) -> None:
    stage = dataclasses.replace(STAGE, epochs=1, batches=100, clip=10.0)
    net, few = Two(), {*range(3, 3 + UNUSABLE), *range(40, 40 + UNUSABLE)}
    assert trainer(stage, tmp_path, task(net, losses=unusable_at(net, few, kind))).run()
    net, many = Two(), set(range(3, 4 + UNUSABLE))
    run = trainer(stage, tmp_path, task(net, losses=unusable_at(net, many, kind)))
    with pytest.raises(UserError, match=r"two epoch 1, step 23: expected a finite .*than 0\.125"):
        run.run()
    assert net.weight.isfinite().all()


def steep_at(net: Two, factors: dict[int, float]) -> Callable[..., Losses]:
    """Losses whose gradient is so many times as large as usual in some batches, from 1."""
    count = 0

    def losses(batch: object, phase: Phase, epoch: int, generator: object) -> Losses:
        nonlocal count
        count += 1
        return {"total": factors.get(count, 1.0) * net.weight.sum()}

    return losses


@pytest.mark.parametrize(("clip", "used"), [(1e-3, 129), (None, 130)])
def test_spikes_of_the_gradient_are_left_out_once_it_has_settled(
    tmp_path: Path, clip: float | None, used: int
) -> None:
    """Norms before clipping count; what is usual is their mean, of the last hundred or so."""
    factors = {SETTLED - 10: 1.2 * SPIKE, SETTLED + 5: 0.9 * SPIKE, SETTLED + 10: 2 * SPIKE}
    stage = dataclasses.replace(STAGE, epochs=1, batches=130, clip=clip)
    net = Two()
    run = trainer(stage, tmp_path, task(net, losses=steep_at(net, factors)))
    assert run.run()[-1]["batches"] == used
    usual = 1.0
    for number in range(1, 131):
        norm = min(factors.get(number, 1.0), SPIKE * usual)
        usual += (norm - usual) / min(number, USUAL)
    assert last(tmp_path)["usual"]["norm"] == pytest.approx(usual * 2**0.5, rel=1e-6)


def test_behind_a_spike_training_goes_on_from_the_average(tmp_path: Path) -> None:
    stage = dataclasses.replace(STAGE, epochs=1, batches=51, clip=1.0, average=0.9)
    net = Two()
    trainer(stage, tmp_path, task(net, losses=steep_at(net, {51: 2 * SPIKE}))).run()
    saved = last(tmp_path)
    assert torch.equal(saved["own_weights"][0], saved["average"][0])
    assert saved["own_weights"][0].tolist() == pytest.approx([-RATE * 45] * 2, rel=1e-6)  # as above


def test_another_phase_has_other_usual_gradients(tmp_path: Path) -> None:
    """Those of larger images may be many times as large from its first batch on."""
    phases = (Phase(until=0.5), Phase())
    stage = dataclasses.replace(STAGE, phases=phases, epochs=2, batches=SETTLED + 10, clip=1.0)
    net, steep = Two(), dict.fromkeys(range(SETTLED + 11, 2 * SETTLED + 21), 3 * SPIKE)
    rows = trainer(stage, tmp_path, task(net, losses=steep_at(net, steep))).run()
    assert [row["batches"] for row in rows] == [0, SETTLED + 10, SETTLED + 10]


def test_unusable_batches_of_short_epochs_end_the_training(tmp_path: Path) -> None:
    """They are counted in a row, however many epochs they take."""
    stage = dataclasses.replace(STAGE, epochs=30, batches=10, clip=1.0)
    net = Two()
    run = trainer(stage, tmp_path, task(net, losses=unusable_at(net, {*range(400)}, "nan")))
    with pytest.raises(UserError, match="two epoch 3, step 21: expected a finite loss"):
        run.run()


def test_gradients_that_stay_steep_become_usual(tmp_path: Path) -> None:
    """As where a network has found out what to do: n are left out until (1 + .09)^n is 2."""
    stage = dataclasses.replace(STAGE, epochs=1, batches=200, clip=1.0)
    net, steep = Two(), dict.fromkeys(range(150, 201), 2 * SPIKE)
    row = trainer(stage, tmp_path, task(net, losses=steep_at(net, steep))).run()[-1]
    assert row["batches"] == 200 - 9


def test_without_a_limit_the_first_unusable_batch_ends_the_training(tmp_path: Path) -> None:
    net = Two()
    run = trainer(STAGE, tmp_path, task(net, losses=unusable_at(net, {6}, "nan")))
    with pytest.raises(UserError, match="two epoch 2, step 6: expected a finite loss"):
        run.run()
    assert last(tmp_path)["epoch"] == 1


def test_minutes_end_a_stage_within_an_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each batch takes a second of a clock that stands still otherwise."""
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr("avsm.trainer.time", SimpleNamespace(monotonic=lambda: clock.now))
    net = Two()

    def losses(batch: object, phase: Phase, epoch: int, generator: object) -> Losses:
        clock.now += 1
        return {"total": net.weight.sum()}

    phases = (Phase(until=0.5), Phase(steps=2))
    stage = dataclasses.replace(STAGE, phases=phases, batches=40, max_minutes=1, epochs=1)
    run = trainer(stage, tmp_path, task(net, losses=losses))
    rows = run.run()
    assert [row["batches"] for row in rows] == [0, 40, 20]
    assert [row["seconds"] for row in rows] == [0, 40, 20]
    assert last(tmp_path)["seconds"] == run.seconds == 60


# Going on


def target_losses(net: Two) -> Callable[..., Losses]:
    """The distance from what was drawn."""

    def losses(batch: torch.Tensor, phase: Phase, epoch: int, generator: object) -> Losses:
        return {"total": (net.weight - batch).square().sum()}

    return losses


def without_clock(rows: list[dict]) -> list[dict]:
    clocks = ("seconds", "memory_mb")
    return [{k: v for k, v in row.items() if k not in clocks} for row in rows]


@pytest.mark.parametrize("killed_after", [0, 1, 4])
def test_resumed_run_equals_an_unbroken_one(tmp_path: Path, killed_after: int) -> None:
    stage = dataclasses.replace(STAGE, epochs=5, schedule="cosine", average=0.9, clip=1.0)
    net = Two()
    unbroken = trainer(stage, tmp_path / "whole", task(net, losses=target_losses(net))).run()
    net, calls = Two(), []

    def score() -> Score:
        calls.append(1)
        if len(calls) == killed_after + 2:
            raise KeyboardInterrupt
        return score_of(net)

    killed = task(net, losses=target_losses(net), score=score)
    with pytest.raises(KeyboardInterrupt):
        trainer(stage, tmp_path / "two", killed).run()
    net = Two()
    again = trainer(stage, tmp_path / "two", task(net, losses=target_losses(net)))
    resumed = again.run(last(tmp_path / "two"))
    assert without_clock(resumed) == without_clock(unbroken)
    ours, theirs = last(tmp_path / "two"), last(tmp_path / "whole")
    for name in ("own_weights", "average", "weights", "optimiser", "step", "best", "usual"):
        torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=0)
    assert not torch.equal(ours["average"][0], ours["own_weights"][0])
    again.run(last(tmp_path / "two"))  # nothing is left to do
    assert last(tmp_path / "two")["step"] == theirs["step"]


def test_no_epochs_leave_the_weights_which_are_scored_and_kept(tmp_path: Path) -> None:
    net = Two()
    rows = trainer(dataclasses.replace(STAGE, epochs=0), tmp_path, task(net)).run()
    assert [(row["epoch"], row["batches"]) for row in rows] == [(0, 0)]
    best = load_checkpoint(tmp_path / "two" / "best.pt")
    assert not best["weights"]["weight"].any() and best["step"] == last(tmp_path)["step"] == 0


def test_history_goes_on_after_that_of_the_stage_before(tmp_path: Path) -> None:
    before = [{"stage": "one", "epoch": 0, "validation_dice": 0.5}]
    net = Two()
    stage = dataclasses.replace(STAGE, epochs=1)
    run = Trainer(task(net), stage, 5, tmp_path / "two", tmp_path, CPU, "bfloat16", before)
    rows = run.run()
    assert [(row["stage"], row["epoch"]) for row in rows] == [("one", 0), ("two", 0), ("two", 1)]
    assert [row["precision"] for row in rows[1:]] == ["bfloat16"] * 2
    assert "total" not in rows[1] and rows[2]["similarity"] == pytest.approx(2 * rows[2]["total"])
    assert len((tmp_path / "history.csv").read_text().splitlines()) == 4
    assert len(last(tmp_path)["rows"]) == 2
