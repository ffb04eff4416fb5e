"""The fairness card: every method and network has a row; nobody is in two splits unnoticed."""

from workflow.data.scans import simulated_note
from workflow.referee.fairness import BY_VALIDATION, compute, notes

COMMON = {"params": {"n": 2}, "defaults": {"n": 1}}
METHODS = [
    {"id": "tool", "label": "Tool", "networks": [],
     "settings_from": "the paper's", "tuning": "none",
     "requires": {"modules": ["numpy"], "programs": ["reg_aladin"]}, **COMMON},
    {"id": "net", "label": "Net", "networks": ["weights"], "settings_from": "", "tuning": "",
     "requires": {"modules": [], "programs": []}, "params": {}, "defaults": {}},
]  # fmt: skip
NETWORKS = [
    {"id": "weights", "label": "Weights", "needs": [], "settings_from": "own", "tuning": "3 trials",
     "requires": {"modules": ["numpy"]}, **COMMON},
]  # fmt: skip
TRAININGS = [
    {"network": "weights", "label": "Weights", "pairs": pairs, "steps": 1000, "seconds": 30,
     "device": "", "processor": "a chip", "threads": 2, "versions": {"numpy": "2.3"}}
    for pairs in ("longitudinal", "cross-subject")
]  # fmt: skip
RECORDS = [
    {"method": method, "processor": "a chip", "threads": 1,
     "versions": {"numpy": "2.3", "reg_aladin": "1.5"}, "registrations": [{"device": device}]}
    for method, device in (("tool", ""), ("net", "a GPU"))
]  # fmt: skip


def test_card():
    card = compute(METHODS, NETWORKS, TRAININGS, RECORDS).set_index("Method or network")
    assert card.index.tolist() == ["Tool", "Net", "Weights"]
    assert card.loc["Tool", "Versions"] == "numpy 2.3, reg_aladin 1.5"
    assert card.loc["Tool", "Changed here"] == "n 2 (default 1)"
    assert card.loc["Net", "Settings from"] == "not stated"
    assert card.loc["Net", "Network it needs"] == "Weights"
    assert card["Time on"].tolist() == ["a chip; threads: 1", "a GPU; threads: 1", "--"]
    assert card["Labels it sees"].tolist() == ["none", f"none; {BY_VALIDATION}", BY_VALIDATION]
    training = card.loc["Weights", "Training"]
    assert "longitudinal pairs: 1,000 steps, 30 s on a chip, 2 threads" in training
    assert training.count("1,000 steps") == 2


def test_simulated_images_are_counted():
    assert simulated_note([True, True]) == []
    assert simulated_note([True, False, False]) == [
        "Images: those of 2 of 3 scans are simulated from label maps."
    ]


def test_patients_of_two_splits_or_of_another_are_named():
    splits = {"a": "test", "b": "train", "c": "validation", "d": "test"}
    scans = [{"subject": name, "split": split} for name, split in splits.items()] * 2
    good = notes(scans, {"a_1": "a", "a_2": "a", "d_1": "d"})
    assert good[0] == "Patients: 2 test, 1 train, 1 validation. In two splits: none."
    assert good[1].startswith("Test pairs: 3 scans of 2 patients.") and good[1].endswith("none.")
    assert notes(scans, {"a_1": "a", "b_1": "b"})[1].endswith("than test: b.")
    twice = [*scans, {"subject": "a", "split": "train"}]
    assert notes(twice, {"a_1": "a"})[0].endswith("In two splits: a.")
    assert notes(twice, {"a_1": "a"})[1].endswith("than test: a.")
