"""Figures 8 and 10: values by number of steps, their intervals, a drawing."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from workflow.contract.descriptions import load_methods
from workflow.referee import boxplot, curves
from workflow.referee.statistics import gather
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
    methods = [{"id": name, "kind": "learned"} for name in ("m1", "m2", "m3")]
    comparisons = gather(metrics, methods, ["longitudinal"], PATIENTS, 1)
    values = curves.compute("8", comparisons, ["m1", "m2", "m3"]).set_index(["measure", "steps"])
    assert values.loc[("dice", 1), "mean"] == pytest.approx(41.5)
    assert values.loc[("dice", 2), "mean"] == pytest.approx(51)  # of three pairs
    assert values.loc[("folds", 3), "mean"] == 15
    assert values.loc[("folds", 3), "low"] == 0 < values.loc[("folds", 3), "high"]  # of 15 +- 48
    assert (values.loc["dice", "low"] < values.loc["dice", "mean"]).all()
    assert values.loc[("dice", 3), "method"] == "m3"
    path = tmp_path / "figure8.png"
    curves.draw("8", values.reset_index(), [str(path)])
    assert path.stat().st_size > 5000
    assert set(curves.compute("10", comparisons, ["m1"])["measure"]) == {"dice"}


def test_configured_curves_count_their_steps(config):
    methods = load_methods(config)
    for figure, last in (("figure8", 6), ("figure10", 10)):
        found = [methods[name].params["steps"] for name in config["curves"][figure]]
        assert found == list(range(1, last + 1))


def test_boxes_below_the_floor_are_named_there(tmp_path):
    """An affine tool that is symmetric by construction: the axis is that of the others.

    The same values make the same file.
    """
    heads = [
        (method, "longitudinal", f"{p}_1", f"{p}_2") for method in ("tool", "net") for p in "ab"
    ]
    rows = [
        (*head, WHOLE, "symmetry", -30.0 if head[0] == "tool" else -8.0 - place, "")
        for place, head in enumerate(heads)
    ]
    rows += [(*head, MEAN, "dice", 0.5, "") for head in heads]
    methods = [{"id": name, "label": name, "kind": "learned"} for name in ("tool", "net")]
    metrics = pd.DataFrame(rows, columns=COLUMNS)
    values = boxplot.compute("7", metrics, methods, ["longitudinal", "cross-subject"])
    figure, axes = plt.subplots()
    boxplot._draw(axes, boxplot.PLOTS["7"], values, ["tool", "net"])
    assert axes.get_ylim()[0] == boxplot.PLOTS["7"].floor
    assert [(text.get_text(), text.get_position()[0]) for text in axes.texts] == [
        ("-30\n▼", pytest.approx(-0.1875))
    ]
    plt.close(figure)
    paths = [tmp_path / "first.png", tmp_path / "second.png"]
    for path in paths:
        boxplot.draw("7", values, [str(path)])
    assert paths[0].read_bytes() == paths[1].read_bytes()
