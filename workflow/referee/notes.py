"""Phrases on methods and trainings that notes and cells of several tables have."""

from collections.abc import Sequence


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
