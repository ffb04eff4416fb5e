"""The fairness card: what each method was given, and that no patient is in two splits.

Other tables say parts of it in their notes.
"""

from collections.abc import Mapping, Sequence

import pandas as pd

from workflow.provenance import distribution
from workflow.referee.render import MISSING

NOT_STATED = "not stated"
BY_VALIDATION = "validation patients' choose the weights"
NO_LABELS = "none"


def compute(
    methods: Sequence[dict],
    networks: Sequence[dict],
    trainings: Sequence[dict],
    records: Sequence[dict],
) -> pd.DataFrame:
    """Return what each method, and each network that methods use, was given, as text.

    Methods and networks are descriptions with the run's parameters, trainings the networks'
    `training.json` and records the shards' `outcomes.json`.
    """
    labels = {network["id"]: network["label"] for network in networks}
    rows = []
    for method in methods:
        own = [record for record in records if record["method"] == method["id"]]
        row = _row(method, own, [labels[name] for name in method["networks"]])
        learned = f"{NO_LABELS}; {BY_VALIDATION}"
        row["Labels it sees"] = learned if method["networks"] else NO_LABELS
        row["Time on"] = "{device}; threads: {threads}".format_map(timed_on(own))
        rows.append(row)
    for network in networks:
        own = [training for training in trainings if training["network"] == network["id"]]
        row = _row(network, own, [labels[name] for name in network["needs"]])
        row["Labels it sees"] = BY_VALIDATION
        row["Training"] = "; ".join(map(training_text, own))
        rows.append(row)
    return pd.DataFrame(rows).fillna(MISSING)


def _row(described: dict, records: Sequence[dict], needs: Sequence[str]) -> dict[str, str]:
    """Return what methods and networks have in common."""
    recorded = {name: v for record in records for name, v in record["versions"].items()}
    requires = described["requires"]
    names = [*map(distribution, requires["modules"]), *requires.get("programs", [])]
    versions = [f"{name} {recorded[name]}" for name in names if name in recorded]
    return {
        "Method or network": described["label"],
        "Network it needs": ", ".join(needs) or MISSING,
        "Settings from": described["settings_from"] or NOT_STATED,
        "Tried to find them": described["tuning"] or NOT_STATED,
        "Changed here": changed_parameters(described) or "nothing",
        "Versions": ", ".join(versions) or MISSING,
    }


def notes(scans: Sequence[dict], tested: Mapping[str, str]) -> list[str]:
    """State the patients of each split, who is in two, and who is tested but not of the split test.

    `scans` are the `subject` and `split` of every scan of the cohort, `tested` is the patient of
    each scan of the test pairs.
    """
    splits: dict[str, set[str]] = {}
    for scan in scans:
        splits.setdefault(scan["subject"], set()).add(scan["split"])
    counts = pd.Series([split for found in splits.values() for split in found]).value_counts()
    twice = sorted(name for name, found in splits.items() if len(found) > 1)
    patients = set(tested.values())
    elsewhere = sorted(name for name in patients if splits.get(name) != {"test"})
    return [
        f"Patients: {', '.join(f'{n} {split}' for split, n in counts.sort_index().items())}. "
        f"In two splits: {', '.join(twice) or 'none'}.",
        f"Test pairs: {len(tested)} scans of {len(patients)} patients. In another split than test: "
        f"{', '.join(elsewhere) or 'none'}.",
    ]


def changed_parameters(described: dict) -> str:
    """Name the parameters of a method or network that are not its defaults; empty: none."""
    params, defaults = described["params"], described["defaults"]
    usual = {key: f"default {_written(value)}" for key, value in defaults.items()}
    if "preset" in params:  # of which a network's settings are changes
        usual["settings"] = f"on the preset {params['preset']}"
    changed = [
        f"{key} {_written(value)} ({usual[key]})"
        for key, value in params.items()
        if value != defaults[key]
    ]
    return ", ".join(changed)


def _written(value: object) -> str:
    """Return a parameter's value; several by name as a list."""
    if not isinstance(value, dict):
        return str(value)
    return ", ".join(f"{name} {entry}" for name, entry in value.items()) or "none"


def training_text(training: dict) -> str:
    """Say of one `training.json` for which pairs, from what, how long and on what it was."""
    threads, start = training["threads"], training.get("start")
    before = ""
    if start:
        before = (
            f"from models/{start['file']} ({start['steps']:,} steps, "
            f"{_duration(start['seconds'])} on {start['device']}, on phantom people), then "
        )
    people = " on phantom people" if training.get("phantoms") else ""
    precision = training.get("precision")
    return (
        f"{labelled(training)}: {before}{training['steps']:,} steps{people}, "
        f"{_duration(training['seconds'])} on {training['device'] or training['processor']}, "
        f"{threads} thread{'' if threads == 1 else 's'}{', ' + precision if precision else ''}"
    )


def labelled(training: dict) -> str:
    """Return the label of a training with the pairs that it is for."""
    pairs = "both tasks" if training["pairs"] == "both" else f"{training['pairs']} pairs"
    return f"{training['label']}, {pairs}"


def _duration(seconds: float) -> str:
    """Return a duration in the unit that suits it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def timed_on(records: Sequence[dict]) -> dict[str, str]:
    """Return the devices, with the precision, and the numbers of threads that registrations of
    some shards' records were timed with.
    """
    devices = {
        ", ".join(filter(None, (entry["device"] or record["processor"], entry.get("precision"))))
        for record in records
        for entry in record["registrations"]
    }
    threads = {str(record["threads"]) for record in records}
    return {"device": ", ".join(sorted(devices)), "threads": ", ".join(sorted(threads))}
