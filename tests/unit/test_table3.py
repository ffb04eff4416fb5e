"""Table 3 from scores that are known: hardest pairs, failures, intervals, ranks, text."""

import numpy as np
import pandas as pd
import pytest

from workflow.referee import ranking, render, table3
from workflow.referee.statistics import gather
from workflow.referee.tidy import COLUMNS, MEAN, WHOLE

METHODS = [
    {"id": "before", "label": "Before", "kind": "control"},
    {"id": "good", "label": "Good", "kind": "classical"},
    {"id": "bad", "label": "Bad", "kind": "learned"},
]
PATIENTS = {f"{patient}_{visit}": patient for patient in "abcd" for visit in (1, 2)}
# Dice of the pair of each patient; the last registration of "bad" failed.
DICE = {
    "before": [0.1, 0.2, 0.3, 0.4],
    "good": [0.5, 0.6, 0.7, 0.8],
    "bad": [0.05, 0.3, 0.4, None],
}


def compared(metrics, methods, task="longitudinal"):
    return gather(metrics, methods, [task], PATIENTS, 1)[task]


@pytest.fixture
def metrics():
    rows = []
    for method, values in DICE.items():
        for patient, value in zip("abcd", values, strict=True):
            reason = "RuntimeError: diverged" if value is None else ""
            head = (method, "longitudinal", f"{patient}_1", f"{patient}_2")
            scores = [(MEAN, "dice", value), (MEAN, "hd95", value and 10 * value)]
            scores += [(MEAN, "assd", value), (WHOLE, "folds", value)]
            others = [name for name in table3.PRINTED if name not in ("hd95", "assd")]
            scores += [(WHOLE, name, value) for name in others]
            rows += [(*head, *score, reason) for score in scores]
    return pd.DataFrame(rows, columns=COLUMNS)


@pytest.fixture
def comparison(metrics):
    return compared(metrics, METHODS)


def test_failed_registrations_leave_a_patient_as_before(comparison):
    assert comparison.dice.columns.tolist() == ["good", "bad"]
    assert comparison.dice["bad"].tolist() == pytest.approx([5, 30, 40, 40])
    assert comparison.fixed.tolist() == comparison.moving.tolist() == list("abcd")


def test_numbers_of_the_table(comparison):
    table = table3.compute({"longitudinal": comparison}, METHODS).set_index("method")
    assert table["dice"].to_dict() == pytest.approx({"Before": 25, "Good": 65, "Bad": 25})
    # The two pairs that were worst before (30 % of four, rounded up).
    assert table["hardest"].to_dict() == pytest.approx({"Before": 15, "Good": 55, "Bad": 17.5})
    assert table["worse"].to_dict() == pytest.approx({"Before": 0, "Good": 0, "Bad": 50})
    assert table.loc["Bad", "hd95"] == pytest.approx(2.5)
    assert table.loc["Good", ["rank", "rank low", "rank high"]].tolist() == [1, 1, 1]
    assert np.isnan(table.loc["Before", "rank"])
    assert table.loc["Good", "low"] < 65 < table.loc["Good", "high"]
    assert table.loc["Bad", "low"] == 0 < table.loc["Bad", "high"] < 100  # of 25 +- 45


def test_table_as_text(comparison):
    table = table3.compute({"longitudinal": comparison}, METHODS)
    text = render.markdown(table3.formatted(table), table3.notes({"longitudinal": comparison}))
    assert "| Before | 25.00 [" in text and "| -- |\n| Good |" in text
    assert "| 1.0 [1.0, 1.0] |" in text
    assert (
        "Longitudinal: 4 directed pairs of 4 patients; no test of all methods at once: 4 blocks"
        in text
    )


def test_notes_name_the_tests_of_three_methods(metrics):
    third = metrics[metrics["method"] == "good"].assign(method="third")
    third["value"] *= np.resize([0.9, 0.8], len(third))
    methods = [*METHODS, {"id": "third", "label": "Third", "kind": "learned"}]
    found = compared(pd.concat([metrics, third]), methods)
    (line,) = table3.notes({"longitudinal": found})[-1:]
    assert "(Friedman, 4 blocks without a patient in common; Nemenyi's" in line


def test_notes_count_patients_and_couples(metrics):
    """The couples ab, bc and ca: one block, and no test of all methods at once."""
    metrics["task"], metrics["moving"] = (
        "cross-subject",
        metrics["moving"].map({"a_2": "b_2", "b_2": "c_2", "c_2": "a_2", "d_2": "b_2"}),
    )
    own = metrics[metrics["fixed"].isin(["a_1", "b_1", "c_1"])]
    found = compared(own, METHODS, "cross-subject")
    (line,) = table3.notes({"cross-subject": found})[-1:]
    assert "3 directed pairs of 3 patients in 3 couples; no test of all methods at once: 1" in line


def test_notes_say_where_one_couple_is_too_few(metrics):
    found = compared(metrics[metrics["fixed"] == "a_1"], METHODS)
    (line,) = table3.notes({"longitudinal": found})[-1:]
    assert "of 1 patients; too few for intervals and tests" in line


def test_no_usable_pair_leaves_a_table(metrics):
    metrics.loc[metrics["method"] == "bad", "value"] = np.nan
    metrics.loc[metrics["method"] == "bad", "reason"] = "E: no"
    own = metrics[metrics["method"] != "before"]
    found = compared(own, METHODS[1:])
    assert not len(found.dice)
    table = table3.compute({"longitudinal": found}, METHODS[1:]).set_index("method")
    assert table.loc["Good", "dice"] == pytest.approx(65)
    assert np.isnan(table.loc["Bad", "dice"])
    assert found.tests["p"].isna().all()


def test_comparison_of_both(comparison):
    found = comparison.tests
    assert found[["a", "b"]].to_numpy().tolist() == [["good", "bad"]]
    assert found["difference"].item() == pytest.approx((45 + 30 + 30 + 40) / 4)
    assert found["p"].item() < 0.05


def test_without_a_control_failed_pairs_are_left_out(metrics):
    methods, own = METHODS[1:], metrics[metrics["method"] != "before"]
    found = compared(own, methods)
    assert found.dice.index.get_level_values("fixed").tolist() == ["a_1", "b_1", "c_1"]
    table = table3.compute({"longitudinal": found}, methods)
    assert table["hardest"].isna().all()
    assert table["worse"].isna().all()


def test_a_dice_that_is_not_defined_is_no_failure(metrics):
    """A structure in neither map: the registration succeeded, its distances and folds count."""
    chosen = (metrics["method"] == "good") & (metrics["fixed"] == "d_1")
    metrics.loc[chosen & (metrics["metric"] == "dice"), "value"] = np.nan
    found = compared(metrics, METHODS)
    row = table3.compute({"longitudinal": found}, METHODS).set_index("method").loc["Good"]
    assert row["dice"] == pytest.approx(60) and row["worse"] == 0
    assert row["hd95"] == pytest.approx(6.5)


def test_ranking_has_the_best_first_and_draws_nothing_without_methods(comparison, tmp_path):
    labels = {method["id"]: method["label"] for method in METHODS}
    ranks, tests = {"longitudinal": comparison.ranks}, {"longitudinal": comparison.tests}
    table = ranking.compute(ranks, tests, labels)
    assert table["label"].tolist() == ["Good", "Bad"]
    assert table["alike"].tolist() == ["", ""]  # two methods have no critical difference
    assert table["better_than"].tolist() == ["bad", ""]
    for number, drawn in enumerate((table, ranking.compute({}, {}, labels))):
        path = tmp_path / f"{number}.png"
        ranking.draw(drawn, [str(path)])
        assert path.stat().st_size > 1000
