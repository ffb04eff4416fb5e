"""Table 1 of the paper: Dice, folds and time of every method, the paper's numbers beside ours."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from workflow.referee.tidy import MEAN, pair_values

PAPER = "paper "  # prefix of the columns that hold published numbers


def summarise(
    metrics: pd.DataFrame,
    methods: Sequence[dict],
    tasks: Sequence[str],
    records: Sequence[dict],
    paper: pd.DataFrame,
) -> pd.DataFrame:
    """Return the table's numbers, a row a method in the given order.

    For each task: mean and population sd of Dice (%) over the directed pairs that succeeded, mean
    folds and mean absolute determinant over folds, the authors' diagonal count, n succeeded of N.
    Failed pairs are in N and in no mean. `records` are the shards' `outcomes.json`.
    """
    pairs = pair_values(metrics)
    published = paper.set_index("row")
    rows = []
    for method in methods:
        own = pairs[pairs["method"] == method["id"]]
        row: dict[str, object] = {"method": method["label"]}
        for task in tasks:
            numbers = _of_task(own[own["task"] == task])
            row |= {f"{task} {key}": value for key, value in numbers.items()}
        row["seconds"] = own["seconds"].mean()
        row |= _circumstances([r for r in records if r["method"] == method["id"]])
        if method["paper_row"] in published.index:
            values = published.loc[method["paper_row"]]
            row |= {PAPER + key: value for key, value in values.items()}
        rows.append(row)
    return pd.DataFrame(rows)


def _of_task(pairs: pd.DataFrame) -> dict[str, float]:
    """Return one method's numbers of one task."""
    return {
        "dice": pairs["dice"].mean(),
        "sd": pairs["dice"].std(ddof=0),
        "folds": pairs["folds"].mean(),
        "folds_abs": pairs["folds_abs"].mean(),
        "folds_diagonal": pairs["folds_diagonal"].mean(),
        "n": int((pairs["reason"] == "").sum()),
        "N": len(pairs),
    }


def _circumstances(records: Sequence[dict]) -> dict[str, str]:
    """Return where a method was timed; several devices or thread counts are all named."""
    devices = {
        entry["device"] or record["processor"]
        for record in records
        for entry in record["registrations"]
    }
    threads = {str(record["threads"]) for record in records}
    return {"device": ", ".join(sorted(devices)), "threads": ", ".join(sorted(threads))}


def notes(
    metrics: pd.DataFrame, methods: Sequence[dict], table: pd.DataFrame, grid: Sequence[int]
) -> list[str]:
    """Return the lines under the table: definitions, budgets, device, failures."""
    lines = [
        "Dice: mean (population sd) in % over the directed pairs, mean of the structures, at "
        f"{'x'.join(map(str, grid))} voxels. n/N: pairs that succeeded of those attempted.",
        "Folds: voxels with a negative full Jacobian determinant of the composed map, mean of the "
        "pairs [sum of their absolute determinants]. Diag.: voxels with a negative product of the "
        "diagonal derivatives, which the authors' code counts for learned methods.",
        "Time: mean seconds of one registration, reading of the images excluded, other "
        f"registrations running on the other cores. {_device_note(table)}",
        "Paper: Shen et al., CVPR 2019, Table 1 (80x192x192 voxels of OAI; classical tools on 10 "
        "cores, networks on a GTX 1080 Ti; other data, so for orientation only).",
    ]
    for method in methods:
        changed = {k: v for k, v in method["params"].items() if v != method["defaults"][k]}
        for key, value in changed.items():
            lines.append(f"{method['label']}: {key} {value} (default {method['defaults'][key]}).")
    return lines + _failure_notes(metrics, methods)


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
    means = metrics[metrics["label"] == MEAN]
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
