"""Table 1 of the paper: Dice, folds and time of every method, the paper's numbers beside ours."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from workflow.referee.evaluate import MEAN, WHOLE

PAIR = ["method", "task", "fixed", "moving"]
PAPER = "paper "  # prefix of the columns that hold published numbers


def pair_values(metrics: pd.DataFrame) -> pd.DataFrame:
    """Return one row a directed pair, one column a measure (Dice in %, mean over structures)."""
    chosen = metrics[metrics["label"].isin([MEAN, WHOLE])]
    wide = chosen.pivot(index=PAIR, columns="metric", values="value").reset_index()
    wide["dice"] *= 100
    return wide


def summarise(
    metrics: pd.DataFrame, methods: Sequence[dict], tasks: Sequence[str], paper: pd.DataFrame
) -> pd.DataFrame:
    """Return the table's numbers, a row a method in the given order.

    For each task: mean and population sd of Dice (%) over the directed pairs that succeeded, mean
    folds and mean absolute determinant over folds, the authors' diagonal count, n succeeded of N.
    Failed pairs are in N and in no mean.
    """
    pairs = pair_values(metrics)
    published = paper.set_index("row")
    rows = []
    for method in methods:
        own = pairs[pairs["method"] == method["id"]]
        row: dict[str, object] = {"method": method["label"]}
        for task in tasks:
            row |= {f"{task} {key}": value for key, value in _of_task(own, task).items()}
        row["seconds"] = own["seconds"].mean()
        if method["paper_row"] in published.index:
            values = published.loc[method["paper_row"]]
            row |= {PAPER + key: value for key, value in values.items()}
        rows.append(row)
    return pd.DataFrame(rows)


def _of_task(own: pd.DataFrame, task: str) -> dict[str, float]:
    """Return one method's numbers of one task."""
    pairs = own[own["task"] == task]
    return {
        "dice": pairs["dice"].mean(),
        "sd": pairs["dice"].std(ddof=0),
        "folds": pairs["folds"].mean(),
        "folds_abs": pairs["folds_abs"].mean(),
        "folds_diagonal": pairs["folds_diagonal"].mean(),
        "n": int(pairs["dice"].notna().sum()),
        "N": len(pairs),
    }


def notes(
    metrics: pd.DataFrame, methods: Sequence[dict], outcomes: Sequence[str], grid: Sequence[int]
) -> list[str]:
    """Return the lines under the table: definitions, budgets, device, failures."""
    lines = [
        "Dice: mean (population sd) in % over the directed pairs, mean of the structures, at "
        f"{'x'.join(map(str, grid))} voxels.",
        "Folds: voxels with a negative full Jacobian determinant of the composed map, mean of the "
        "pairs [sum of their absolute determinants].",
        _device_note(outcomes, {method["id"]: method["label"] for method in methods}),
        "Paper: Shen et al., CVPR 2019, Table 1 (80x192x192 voxels of OAI; classical tools on 10 "
        "cores, networks on a GTX 1080 Ti; other data, so for orientation only).",
    ]
    for method in methods:
        changed = {k: v for k, v in method["params"].items() if v != method["defaults"][k]}
        for key, value in changed.items():
            lines.append(f"{method['label']}: {key} {value} (default {method['defaults'][key]}).")
    return lines + _failure_notes(metrics, methods)


def _device_note(outcomes: Sequence[str], labels: dict[str, str]) -> str:
    """Say on which device and with how many threads each method was timed."""
    groups: dict[str, list[str]] = {}
    for path in outcomes:
        record = json.loads(Path(path).read_text(encoding="utf-8"))
        threads = f"{record['threads']} thread{'s' if record['threads'] > 1 else ''}"
        group = groups.setdefault(f"{record['device']}, {threads}", [])
        if labels[record["method"]] not in group:
            group.append(labels[record["method"]])
    places = [
        place if len(groups) == 1 else f"{place} ({', '.join(methods)})"
        for place, methods in groups.items()
    ]
    return (
        "Time: mean seconds of one registration, reading of the images excluded, other "
        f"registrations running on the other cores, on {'; '.join(places)}."
    )


def _failure_notes(metrics: pd.DataFrame, methods: Sequence[dict]) -> list[str]:
    """Count each method's failures by reason."""
    failed = metrics[(metrics["label"] == MEAN) & metrics["reason"].notna()]
    lines = []
    for method in methods:
        own = failed[failed["method"] == method["id"]]
        for reason, number in own["reason"].value_counts().items():
            lines.append(f"{method['label']}: {number} pair(s) failed: {reason}")
    return lines
