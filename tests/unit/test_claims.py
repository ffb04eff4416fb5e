"""The paper's claims: verdicts of intervals, the best other method, absent methods."""

import numpy as np
import pandas as pd
import pytest
import yaml
from scipy import stats

from workflow.config import TASKS
from workflow.referee import claims
from workflow.referee.claims import ABSENT, CONTRADICTED, EQUAL, OPEN, SUPPORTED, verdict
from workflow.referee.statistics import gather
from workflow.referee.tidy import COLUMNS, MEAN, WHOLE
from workflow.run import load_run

METHODS = [
    {"id": name, "label": label, "paper_row": row, "kind": kind, "family": family}
    for name, label, row, kind, family in (
        ("identity", "Before", None, "control", ""),
        ("avsm-3step", "AVSM (3-step)", "x", "learned", "AVSM"),
        ("syn", "SyN", "SyN", "classical", ""),
        ("demons", "Demons", "Demons", "classical", ""),
        ("avsm-refined", "AVSM + instance opt.", None, "learned", "AVSM"),
    )
]
PATIENTS = {f"{patient}_{visit}": patient for patient in "abcd" for visit in (1, 2)}


@pytest.mark.parametrize(
    ("expect", "low", "high", "margin", "expected"),
    [
        ("more", 0.1, 2, 0, SUPPORTED), ("more", -1, 2, 0, OPEN), ("more", -2, -1, 0, CONTRADICTED),
        ("less", -2, -1, 0, SUPPORTED), ("less", -1, 2, 0, OPEN), ("less", 1, 2, 0, CONTRADICTED),
        ("not-less", -1.5, -0.5, 2, SUPPORTED), ("not-less", -3, 1, 2, OPEN),
        ("not-less", -4, -3, 2, CONTRADICTED),
        ("alike", -0.5, 0.7, 1, SUPPORTED), ("alike", -0.5, 1.2, 1, OPEN),
        ("alike", 1.1, 2, 1, CONTRADICTED), ("more", np.nan, np.nan, 0, OPEN),
        ("alike", np.nan, np.nan, 1, OPEN), ("more", 1, 5, 2, OPEN), ("more", 3, 5, 2, SUPPORTED),
        ("more", 0.5, 1.5, 2, CONTRADICTED), ("more", 0, 0, 0, EQUAL), ("less", 0, 0, 0, EQUAL),
        ("not-less", 0, 0, 2, SUPPORTED), ("alike", 0, 0, 1, SUPPORTED),
    ],
)  # fmt: skip
def test_verdicts(expect, low, high, margin, expected):
    assert verdict(expect, low, high, margin) == expected


@pytest.fixture
def metrics():
    """Scores of four patients; SyN's Dice differs from one to the next."""
    dice = {"identity": 0.2, "avsm-3step": 0.7, "syn": 0.6, "demons": 0.5, "avsm-refined": 0.9}
    rows = []
    for method, value in dice.items():
        for place, patient in enumerate("abcd"):
            head = (method, "cross-subject", f"{patient}_1", f"{patient}_2")
            wobble = 0.01 * place * (method == "syn")
            rows.append((*head, MEAN, "dice", value + wobble, ""))
            rows.append((*head, WHOLE, "folds", 0.0, ""))
    return pd.DataFrame(rows, columns=COLUMNS)


def judge(said, metrics):
    """Judge claims by a run whose row IX of Table 2 is SyN."""
    comparisons = gather(metrics, METHODS, ["cross-subject"], PATIENTS, 1)
    return claims.compute(said, comparisons, METHODS, {"IX": "syn"})


def test_table(metrics):
    said = [
        {"claim": "best", "tasks": ["cross-subject", "longitudinal"], "measure": "dice",
         "a": "avsm-3step", "b": "best", "expect": "more"},
        {"claim": "absent", "tasks": ["cross-subject"], "measure": "dice", "a": "avsm-9",
         "b": "syn", "expect": "more"},
        {"claim": "a row", "tasks": ["cross-subject"], "measure": "dice", "a": "row IX",
         "b": "demons", "expect": "more"},
        {"claim": "no row", "tasks": ["cross-subject"], "measure": "dice", "a": "row VIII",
         "b": "demons", "expect": "more"},
    ]  # fmt: skip
    table = judge(said, metrics)
    assert table["verdict"].tolist() == [SUPPORTED, ABSENT, SUPPORTED, ABSENT]
    assert table["a"].tolist()[2:] == ["syn", "row VIII"]
    best = table.iloc[0]
    assert best["b"] == "syn" and best["difference"] == pytest.approx(100 * (0.1 - 0.015))
    text = claims.formatted(table, {method["id"]: method["label"] for method in METHODS})
    assert text["Difference [95 %]"][0].startswith("AVSM (3-step) against SyN: +8.5 [")
    assert text["This run says"].tolist() == 2 * ["supported", "not tested"]


def test_rivals_are_of_another_family_whatever_their_labels(metrics):
    """SyN's label names AVSM, as "SyN (as AVSM's paper has it)" would; AVSM's does not."""
    said = [{"claim": "best", "tasks": ["cross-subject"], "measure": "dice", "a": "avsm-3step",
             "b": "best", "expect": "more"}]  # fmt: skip
    named = [m | {"label": "SyN as AVSM's" if m["id"] == "syn" else m["id"]} for m in METHODS]
    own = named[:1] + [m | {"paper_row": "y"} for m in named[1:]]
    comparisons = gather(metrics, own, ["cross-subject"], PATIENTS, 1)
    assert claims.compute(said, comparisons, own, {})["b"].tolist() == ["syn"]


def test_the_choice_of_the_best_rival_widens_the_interval(metrics):
    """Of two rivals: Student's quantile of 0.0125 instead of 0.025 on either side."""
    one = {"claim": "", "tasks": ["cross-subject"], "measure": "dice", "a": "avsm-3step",
           "b": "syn", "expect": "more"}  # fmt: skip
    table = judge([one, one | {"b": "best"}], metrics)
    assert table["b"].tolist() == ["syn", "syn"]
    width = (table["high"] - table["low"]).to_numpy()
    assert width[1] / width[0] == pytest.approx(stats.t.ppf(0.9875, 3) / stats.t.ppf(0.975, 3))


def test_failed_pairs_count_as_before_registration(metrics):
    """One of AVSM's four pairs failed: its Dice is 0.2 instead of 0.7, its folds are unknown."""
    failed = (metrics["method"] == "avsm-3step") & (metrics["fixed"] == "d_1")
    metrics.loc[failed, "value"] = np.nan
    metrics.loc[failed, "reason"] = "E: no"
    one = {"claim": "", "tasks": ["cross-subject"], "a": "avsm-3step", "b": "demons",
           "expect": "more"}  # fmt: skip
    table = judge([one | {"measure": "dice"}, one | {"measure": "folds"}], metrics)
    assert table["difference"].tolist() == pytest.approx([100 * (0.2 - 0.5 / 4), 0])
    assert table["without"].tolist() == [0, 1]
    assert table["verdict"].tolist() == [OPEN, EQUAL]
    text = claims.formatted(table, {method["id"]: method["label"] for method in METHODS})
    assert text["Difference [95 %]"][1].endswith("folds; unknown in 1 pair(s)")


def test_claims_of_the_paper_name_what_a_whole_run_has(config):
    said = yaml.safe_load(claims.CLAIMS.read_text("utf-8"))
    run = load_run(config | {"training": config["training"] | {"start": "scratch"}})
    known = {*run.methods, "best", *(f"row {row}" for row in run.table2)}
    for claim in said:
        assert {claim["a"], claim["b"]} <= known
        assert set(claim["tasks"]) <= set(TASKS)
        assert claim["expect"] in ("more", "less", "not-less", "alike")
        assert claim["measure"] in claims.UNITS
