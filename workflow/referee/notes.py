"""The lines under Table 1: definitions, what differs from defaults, trainings, failures."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from workflow.data.scans import simulated_note
from workflow.referee.tidy import MEAN

PAPER = "paper "  # prefix of Table 1's columns that hold published numbers


def has_paper(table: pd.DataFrame) -> bool:
    """Tell whether Table 1 compares with the paper."""
    return any(column.startswith(PAPER) for column in table)


def notes(
    metrics: pd.DataFrame,
    methods: Sequence[dict],
    table: pd.DataFrame,
    grid: Sequence[int],
    networks: Sequence[dict] = (),
    trainings: Sequence[dict] = (),
    images: Sequence[bool] = (),
) -> list[str]:
    """Return the lines under the table: definitions, device, trainings, budgets, failures.

    `methods` and `networks` are descriptions, `trainings` the networks' `training.json`, `images`
    says of each scan whether it has one.
    """
    compared = has_paper(table)
    lines = [
        "Dice: mean (population sd) in % over the directed pairs, mean of the structures, at "
        f"{'x'.join(map(str, grid))} voxels. n/N: pairs that succeeded of those attempted.",
        "Folds: voxels with a negative full Jacobian determinant of the composed map, mean of the "
        "pairs [sum of their absolute determinants]."
        + " Diag.: voxels with a negative product of the diagonal derivatives, which the authors' "
        "code counts for learned methods." * compared,
        "Time: mean seconds of one registration, reading of the images excluded; other jobs of the "
        f"run, trainings among them, may have used other cores. {_device_note(table)}",
    ]
    if compared:
        lines.append(
            "Paper: Shen et al., CVPR 2019, Table 1 (80x192x192 voxels of OAI; classical tools on "
            "10 cores, networks on a GTX 1080 Ti; other data, so for orientation only)."
        )
    lines += simulated_note(images) + _training_note(trainings)
    for first in filter(None, dict.fromkeys(method["starts_from"] for method in methods)):
        own = [method["label"] for method in methods if method["starts_from"] == first]
        lines.append(
            f"{', '.join(own)}: from the affine map of {first}, which is computed once for all; "
            "its seconds are counted in theirs."
        )
    for one in (*methods, *networks):
        if changed := changed_parameters(one):
            lines.append(f"{one['label']}: {changed}.")
    return lines + _failure_notes(metrics, methods)


def warning_note(warnings: Sequence[str], shown: int = 5) -> list[str]:
    """Say what the check of the cohort warned of."""
    if not warnings:
        return []
    more = f"; {len(warnings) - shown} more in cohort.json" if len(warnings) > shown else ""
    return [f"Warnings of the check of images: {'; '.join(warnings[:shown])}{more}."]


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


def _training_note(trainings: Sequence[dict]) -> list[str]:
    """Say how long each network was trained, for which pairs, and on what."""
    if not trainings:
        return []
    return [f"Networks: {'; '.join(map(training_text, trainings))}."]


def training_text(training: dict) -> str:
    """Say of one training for which pairs, from what, how long and on what it was."""
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


def timed_on(registration: dict, record: dict) -> str:
    """Return where a registration of a shard's record was timed, and in which precision."""
    device, precision = registration["device"] or record["processor"], registration.get("precision")
    return f"{device}, {precision}" if precision else device


def _duration(seconds: float) -> str:
    """Return a duration in the unit that suits it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _device_note(table: pd.DataFrame) -> str:
    """Say on which device and with how many threads the methods were timed."""
    parts = []
    groups = list(table.groupby(["device", "threads"], sort=False))
    for (device, threads), rows in groups:
        who = "" if len(groups) == 1 else f"{', '.join(rows['method'])}: "
        parts.append(f"{who}{device}, {threads} thread{'' if threads == '1' else 's'}")
    return "; ".join(parts) + "."


def _failure_notes(metrics: pd.DataFrame, methods: Sequence[dict]) -> list[str]:
    """Count each method's failures by reason, and its successes without a Dice."""
    means = metrics[(metrics["label"] == MEAN) & (metrics["metric"] == "dice")]
    lines = []
    for method in methods:
        own = means[means["method"] == method["id"]]
        for reason, number in own["reason"][own["reason"] != ""].value_counts().items():
            lines.append(f"{method['label']}: {number} pair(s) failed: {reason}")
        undefined = int((own["value"].isna() & (own["reason"] == "")).sum())
        if undefined:
            lines.append(
                f"{method['label']}: {undefined} pair(s) without Dice: a structure in neither map."
            )
    return lines
