"""Table 2 from scores that are known: gains, failures, the paper's numbers, text."""

import numpy as np
import pandas as pd
import pytest
import yaml

from tests.conftest import ROOT, merge
from workflow.contract.descriptions import load_methods, load_networks
from workflow.referee import render, table2
from workflow.referee.statistics import gather
from workflow.referee.tidy import COLUMNS, MEAN, WHOLE

METHODS = [
    {"id": name, "label": name, "kind": "control" if name == "before" else "learned"}
    for name in ("before", "one", "two")
]
ROWS = [
    {"row": "I", "method": "one", "parts": []},
    {"row": "II", "method": "two", "parts": ["Af-Reg", "vSVF"]},
]
PATIENTS = {f"{patient}_{visit}": patient for patient in "abcd" for visit in (1, 2)}
DICE = {"before": [0.2] * 4, "one": [0.1, 0.2, 0.1, 0.2], "two": [0.5, 0.4, 0.6, None]}


@pytest.fixture
def table():
    rows = []
    for method, values in DICE.items():
        for patient, value in zip("abcd", values, strict=True):
            head = (method, "longitudinal", f"{patient}_1", f"{patient}_2")
            reason = "E: no" if value is None else ""
            rows.append((*head, MEAN, "dice", value, reason))
            rows.append((*head, WHOLE, "folds", 0.0, reason))
    metrics = pd.DataFrame(rows, columns=COLUMNS)
    found = gather(metrics, METHODS, ["longitudinal"], PATIENTS, 1)
    paper = pd.read_csv(table2.PUBLISHED)
    return table2.compute(ROWS, found, paper)


TRAINING = {
    "label": "Net", "pairs": "both", "steps": 3, "seconds": 9, "device": "", "processor": "a chip",
    "threads": 1, "params": {"preset": "paper"},
}  # fmt: skip


def test_numbers(table):
    first, second = table.iloc[0], table.iloc[1]
    assert first["longitudinal dice"] == pytest.approx(15) and first["longitudinal fails"]
    assert np.isnan(first["longitudinal gain"]) and np.isnan(first["longitudinal paper"])
    # The failed pair counts as before registration, 20.
    assert second["longitudinal dice"] == pytest.approx((50 + 40 + 60 + 20) / 4)
    assert second["longitudinal gain"] == pytest.approx((40 + 20 + 50 + 0) / 4)
    assert second["longitudinal low"] < 27.5 < second["longitudinal high"]
    assert not second["longitudinal fails"] and second["longitudinal paper"] == 55.41
    assert (second["Af-Reg"], second["Af-MK"], second["vSVF"]) == (True, False, True)


def test_text(table):
    text = render.markdown(
        {"": table2.formatted(table, ["longitudinal"])}, table2.notes([TRAINING], paper=True)
    )
    assert "| I |  |  |  |  |  |  |  |  | 15.00 (fails) | -- | -- |" in text
    assert "| II | ✓ |  |  |  | ✓ |  |  |  | 42.50 | ✓ +27.5 [" in text
    assert "- Networks: Net, both tasks: 3 steps, 9 s on a chip, 1 thread." in text
    assert "| Paper: longitudinal |" in text and "- Paper: Shen et al." in text


def test_text_without_the_paper(table):
    """Of other anatomies than knees its numbers say nothing."""
    own = table.drop(columns="longitudinal paper")
    text = render.markdown(
        {"": table2.formatted(own, ["longitudinal"])}, table2.notes([TRAINING], paper=False)
    )
    assert "42.50" in text and "Paper" not in text


def test_the_papers_settings_train_no_row_on_known_maps(config):
    """They are what the preset small begins with."""
    settings = yaml.safe_load((ROOT / "config/paper-settings.yaml").read_text(encoding="utf-8"))
    merged = merge(config, settings)
    networks = load_networks(merged, load_methods(merged).values())
    assert len(networks) == 11
    for name, network in networks.items():
        assert network.params["preset"] == "paper", name
        assert "known" not in str(network.params["settings"]), name


def test_the_papers_rows_are_configured(config):
    """Each row has the parts that its networks' settings say."""
    methods = load_methods(config)
    networks = load_networks(config, methods.values())
    paper = pd.read_csv(table2.PUBLISHED)
    assert [row["row"] for row in config["table2"]] == paper["row"].tolist()
    for row in config["table2"]:
        method = methods[row["method"]]
        settings = networks[method.networks[0]].params["settings"]
        deformable, parts = method.networks[0].startswith("momentum"), row["parts"]
        assert deformable == ("vSVF" in parts)
        kind, weight = ("vSVF", "lambda_vs") if deformable else ("Af", "lambda_as")
        assert (settings.get("similarity", "mk-lncc") == "mk-lncc") == (f"{kind}-MK" in parts)
        assert (settings.get(weight) != 0) == (f"{kind}-Sym" in parts)
        assert (method.params["steps"] > 1) == (f"{kind}-Multi" in parts)
