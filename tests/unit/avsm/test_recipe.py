"""Recipes: presets, phases and rates, settings and their errors."""

from __future__ import annotations

import pytest

from avsm.errors import UserError
from avsm.presets import recipe_preset
from avsm.recipe import Augmentation, Phase, Recipe, StageRecipe
from avsm.stage import phase_at, rate_at


def test_recipe_survives_plain_values() -> None:
    for name in ("paper", "small"):
        recipe = recipe_preset(name, "longitudinal")
        assert Recipe.from_dict(recipe.to_dict()) == recipe


def test_paper_preset_is_the_papers() -> None:
    for task, steps in (("longitudinal", 3), ("cross-subject", 5)):
        recipe = recipe_preset("paper", task)
        assert [phase.steps for phase in recipe.affine.phases] == [1, steps]
        assert [phase.steps for phase in recipe.momentum.phases] == [2]
        for stage in (recipe.affine, recipe.momentum):
            assert (stage.epochs, stage.batches, stage.rate) == (200, 400, 5e-4)
            assert rate_at(stage, 0.5, 59) == 5e-4
            assert rate_at(stage, 0.5, 60) == 2.5e-4
            assert all(phase.pairs == 1 and not phase.known for phase in stage.phases)
        assert recipe.augmentation == Augmentation()


def test_phases_and_rates_follow_progress() -> None:
    stage = StageRecipe(
        phases=(Phase(until=0.25), Phase(steps=3)), rate=1.0, schedule="cosine", warmup=0.1
    )
    assert [phase_at(stage, p).steps for p in (0, 0.2, 0.25, 0.99)] == [1, 1, 3, 3]
    assert rate_at(stage, 0.0, 0) == pytest.approx(0.01)
    assert rate_at(stage, 0.5, 0) == pytest.approx(0.5)
    assert rate_at(stage, 1.0, 0) == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"affine.rat": 1}, "did you mean 'affine.rate'"),
        ({"affine.epochs": 0}, "affine.epochs: expected more than 0"),
        ({"momentum.schedule": "cosin"}, "did you mean 'cosine'"),
        ({"affine.phases": [{"until": 0.5}]}, "expected 'until' to rise to 1"),
        ({"affine.phases": [{"unti": 0.5}]}, "did you mean 'until'"),
        ({"affine.phases": 1}, "affine.phases: expected a list, found 1"),
        ({"affine.rate": "fast"}, "affine.rate: expected a number, found 'fast'"),
        ({"affine.epochs": 2.5}, "affine.epochs: expected a whole number, found 2.5"),
        ({"similarity": "lncc"}, "similarity: expected one of mk-lncc, ncc, found 'lncc'"),
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


def test_unknown_preset_names_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'small'"):
        recipe_preset("smal")
