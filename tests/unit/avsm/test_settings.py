"""Settings: presets, phases and rates, plain values and their errors."""

from __future__ import annotations

import json

import pytest

from avsm.errors import UserError
from avsm.settings import (
    PRESETS,
    AffineNetConfig,
    Augmentation,
    AVSMConfig,
    MomentumNetConfig,
    Phase,
    Recipe,
    Stage,
    recipe_preset,
)
from avsm.values import flat


@pytest.mark.parametrize("task", ["longitudinal", "cross-subject", "both"])
@pytest.mark.parametrize("name", sorted(PRESETS))
def test_recipe_survives_plain_values(name: str, task: str) -> None:
    recipe = recipe_preset(name, task)
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe


def test_paper_preset_is_the_papers() -> None:
    for task, steps in (("longitudinal", 3), ("cross-subject", 5)):
        recipe = recipe_preset("paper", task)
        assert [phase.steps for phase in recipe.affine.phases] == [1, steps]
        assert [phase.steps for phase in recipe.momentum.phases] == [2]
        for stage in (recipe.affine, recipe.momentum):
            assert (stage.epochs, stage.batches, stage.rate) == (200, 400, 5e-4)
            assert stage.rate_at(0.5, 59) == 5e-4
            assert stage.rate_at(0.5, 60) == 2.5e-4
            assert [stage.batches_of(phase) for phase in stage.phases] == [400] * len(stage.phases)
            assert (stage.clip, stage.average) == (None, 0)
        assert recipe.augmentation == Augmentation()
        assert recipe.model == AVSMConfig(AffineNetConfig(), MomentumNetConfig(), 7, 3)


def test_phases_and_rates_follow_progress() -> None:
    stage = Stage(
        phases=(Phase(until=0.25), Phase(steps=3)), rate=1.0, schedule="cosine", warmup=0.1
    )
    assert [stage.phase_at(p).steps for p in (0, 0.2, 0.25, 0.99)] == [1, 1, 3, 3]
    assert stage.rate_at(0.0, 0) == pytest.approx(0.01)
    assert stage.rate_at(0.5, 0) == pytest.approx(0.5)
    assert stage.rate_at(1.0, 0) == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("phase", "batches"),
    [
        (Phase(), 50),
        (Phase(pairs=2), 25),
        (Phase(scale=0.5), 400),
        (Phase(pairs=4, scale=0.5), 100),
        (Phase(pairs=200), 1),
    ],
)
def test_epochs_of_all_phases_read_as_many_voxels(phase: Phase, batches: int) -> None:
    assert Stage(batches=50).batches_of(phase) == batches


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"affine.rat": 1}, "did you mean 'affine.rate'"),
        ({"model.afine.scale": 1}, "did you mean 'model.affine.scale'"),
        ({"affine.epochs": -1}, "affine.epochs: expected at least 0"),
        ({"affine.clip": 0}, "affine.clip: expected more than 0, found 0"),
        ({"affine.max_minutes": 0}, "affine.max_minutes: expected more than 0"),
        ({"momentum.schedule": "cosin"}, "did you mean 'cosine'"),
        ({"momentum.average": 1.0}, "momentum.average: expected from 0 to below 1, found 1.0"),
        ({"affine.phases": [{"until": 0.5}]}, "expected 'until' to rise to 1"),
        ({"affine.phases": [{"unti": 0.5}]}, "did you mean 'until'"),
        ({"affine.phases": [{"scale": 2}]}, r"at least 1 and a scale in \(0, 1\]"),
        ({"affine.phases": [{"pairs": 0}]}, r"at least 1 and a scale in \(0, 1\]"),
        ({"momentum.phases": [{"steps": 0}]}, r"at least 1 and a scale in \(0, 1\]"),
        ({"affine.phases": 1}, "affine.phases: expected a list, found 1"),
        ({"affine.rate": "fast"}, "affine.rate: expected a number, found 'fast'"),
        ({"affine.epochs": 2.5}, "affine.epochs: expected a whole number, found 2.5"),
        ({"similarity": "lncc"}, "similarity: expected one of mk-lncc, ncc, found 'lncc'"),
        ({"start": "networks"}, "did you mean 'network'"),
        ({"squared": "no"}, "squared: expected true or false, found 'no'"),
        ({"seed": True}, "seed: expected a whole number, found True"),
        ({"momentum.clip": "none"}, "momentum.clip: expected a number or null, found 'none'"),
    ],
)
def test_wrong_settings_are_named(change: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        recipe_preset("small").change(change)


def test_kinds_of_settings_leave_what_they_may_be() -> None:
    recipe = recipe_preset("small").change(
        {"affine.rate": 1, "momentum.clip": None, "affine.max_minutes": 3}
    )
    assert (recipe.affine.rate, recipe.momentum.clip, recipe.affine.max_minutes) == (1, None, 3)


def test_a_change_leaves_the_rest() -> None:
    before = recipe_preset("small")
    changed = before.change({"affine.phases": [{"pairs": 3}], "model.precision": "bfloat16"})
    assert changed.affine.phases == (Phase(pairs=3),)
    old, new = flat(before.to_dict()), flat(changed.to_dict())
    assert {name for name in old if old[name] != new[name]} == {"affine.phases", "model.precision"}


def test_training_on_is_short_and_gentle_and_of_the_last_phase() -> None:
    whole = recipe_preset("small")
    whole = whole.change({"affine.more_epochs": 3, "momentum.more_rate": 1e-5})
    short = whole.continued()
    for name in ("affine", "momentum"):
        before, now = getattr(whole, name), getattr(short, name)
        assert now.phases == before.phases[-1:] and now.phases[0].until == 1
        assert now.epochs * now.batches < before.epochs * before.batches / 10
        assert now.rate < before.rate / 5
    assert (short.affine.epochs, short.momentum.rate) == (3, 1e-5)
    old, new = flat(whole.to_dict()), flat(short.to_dict())
    assert {name.split(".")[-1] for name in old if old[name] != new[name]} == {
        "phases", "epochs", "batches", "rate", "lambda_ar",
    }  # fmt: skip
    assert short.lambda_ar == 0  # Eq. 13 does not pull a trained network to the identity again


def test_nested_changes_leave_their_neighbours() -> None:
    nested = {"model": {"affine_steps": 3}, "affine": {"epochs": 3}, "augmentation": {"gamma": 0.1}}
    dotted = {"model.affine_steps": 3, "affine.epochs": 3, "augmentation.gamma": 0.1}
    assert recipe_preset("small").change(nested) == recipe_preset("small").change(dotted)


def test_unknown_preset_and_task_name_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'small'"):
        recipe_preset("smal")
    with pytest.raises(UserError, match="did you mean 'longitudinal'"):
        recipe_preset("small", "longitudnal")


def test_unknown_keys_of_a_model_are_named() -> None:
    assert AVSMConfig.from_dict({}) == AVSMConfig()
    with pytest.raises(UserError, match=r"momentum: no setting 'widht' \(did you mean 'width'"):
        AVSMConfig.from_dict({"momentum": {"widht": 8}})
    with pytest.raises(UserError, match="model: no setting 'solvre'"):
        AVSMConfig.from_dict({"solvre": "rk4"})


@pytest.mark.parametrize(
    ("steps", "scale", "expected"),
    [
        (0, 1.0, ()),
        (1, 1.0, (1.0,)),
        (2, 1.0, (0.5, 1.0)),
        (3, 1.0, (0.25, 0.5, 1.0)),
        (5, 1.0, (0.25, 0.5, 1.0, 1.0, 1.0)),
        (1, 0.5, (0.5,)),
        (3, 0.5, (0.25, 0.5, 0.5)),
        (2, 0.2, (0.2, 0.2)),
    ],
)
def test_last_steps_are_the_finest(steps: int, scale: float, expected: tuple[float, ...]) -> None:
    assert AVSMConfig(step_scales=(0.25, 0.5, 1.0)).scales_of(steps, scale) == expected
    assert AVSMConfig().scales_of(steps, scale) == steps * (scale,)


@pytest.mark.parametrize("scales", [(), (0.5,), (1.0, 0.5), (0.0, 1.0), (1.0, 2.0)])
def test_scales_of_steps_rise_to_one(scales: tuple[float, ...]) -> None:
    with pytest.raises(UserError, match="step_scales: expected parts that rise to 1"):
        AVSMConfig(step_scales=scales)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"affine.phases": [1]}, "affine.phases, entry 1: expected names with values, found 1"),
        ({"affine.phases": [{"until": "x"}]}, "affine.phases.until: expected a number, found 'x'"),
        ({"model.step_scales": ["a", 1]}, "step_scales, entry 1: expected a number, found 'a'"),
        ({"model.steps": -1}, "model.steps: expected at least 0, found -1"),
        ({"model.momentum.width": 0}, "model.momentum.width: expected at least 1, found 0"),
        ({"model.affine.scale": 3}, r"model.affine.scale: expected a part in \(0, 1\], found 3"),
    ],
)
def test_senseless_values_are_refused(change: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        recipe_preset("small").change(change)
