"""Figures 8 and 10: values by number of steps, their intervals, a drawing."""

import numpy as np
import pandas as pd
import pytest

from workflow.contract.methods import load_methods
from workflow.referee.curves import curve_values, draw_curves
from workflow.referee.tidy import COLUMNS, MEAN, WHOLE

PATIENTS = {f"{patient}_{visit}": patient for patient in "abcd" for visit in (1, 2)}


@pytest.fixture
def metrics():
    """Dice of 0.1 more with each step, folds in one case; the last pair of two steps failed."""
    rows = []
    for steps in (1, 2, 3):
        for place, patient in enumerate("abcd"):
            head = (f"m{steps}", "longitudinal", f"{patient}_1", f"{patient}_2")
            failed = steps == 2 and patient == "d"
            reason = "E: no" if failed else ""
            dice = np.nan if failed else 0.3 + 0.1 * steps + 0.01 * place
            rows.append((*head, MEAN, "dice", dice, reason))
            folds = 20.0 * steps if patient == "a" else 0.0
            rows.append((*head, WHOLE, "folds", np.nan if failed else folds, reason))
    return pd.DataFrame(rows, columns=COLUMNS)


def test_values_and_drawing(metrics, tmp_path):
    values = curve_values(
        "8", metrics, ["m1", "m2", "m3"], ["longitudinal"], PATIENTS, 1
    ).set_index(["measure", "steps"])
    assert values.loc[("dice", 1), "mean"] == pytest.approx(41.5)
    assert values.loc[("dice", 2), "mean"] == pytest.approx(51)  # of three pairs
    assert values.loc[("folds", 3), "mean"] == 15
    assert values.loc[("folds", 3), "low"] == 0 < values.loc[("folds", 3), "high"]  # of 15 +- 48
    assert (values.loc["dice", "low"] < values.loc["dice", "mean"]).all()
    assert values.loc[("dice", 3), "method"] == "m3"
    path = tmp_path / "figure8.png"
    draw_curves("8", values.reset_index(), "matplotlibrc", [str(path)])
    assert path.stat().st_size > 5000
    assert set(curve_values("10", metrics, ["m1"], ["longitudinal"], PATIENTS, 1)["measure"]) == {
        "dice"
    }


def test_configured_curves_count_their_steps(config):
    methods = load_methods(config)
    for figure, last in (("figure8", 6), ("figure10", 10)):
        found = [methods[name].params["steps"] for name in config["curves"][figure]]
        assert found == list(range(1, last + 1))
