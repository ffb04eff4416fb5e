"""Table 1 of the paper: Dice, folds and time of every method, the paper's numbers beside ours."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pandas as pd

from workflow.config import TASKS
from workflow.data.scans import simulated_note
from workflow.referee.fairness import changed_parameters, timed_on, training_text
from workflow.referee.render import MISSING, number
from workflow.referee.tidy import MEAN, pair_values

PUBLISHED = Path(__file__).with_name("paper_table1.csv")
PAPER = "paper "  # prefix of the columns that hold published numbers
MEANS = ("folds", "folds_abs", "folds_diagonal")


def compute(
    metrics: pd.DataFrame,
    methods: Sequence[dict],
    tasks: Sequence[str],
    records: Sequence[dict],
    paper: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Return the table's numbers, a row a method in the given order.

    For each task: mean and population sd of Dice (%) over the directed pairs that succeeded, mean
    folds and mean absolute determinant over folds, the authors' diagonal count, n succeeded of N.
    Failed pairs are in N and in no mean. `records` are the shards' `outcomes.json`, `paper` the
    published numbers to stand beside ours, if any.
    """
    pairs = pair_values(metrics)
    published = pd.DataFrame() if paper is None else paper.set_index("row")
    rows = []
    for method in methods:
        every = pairs[pairs["method"] == method["id"]]
        row: dict[str, object] = {"method": method["label"]}
        for task in tasks:
            own = every[every["task"] == task]
            numbers = {"dice": own["dice"].mean(), "sd": own["dice"].std(ddof=0)}
            numbers |= own[[*MEANS]].mean()
            numbers |= {"n": int((own["reason"] == "").sum()), "N": len(own)}
            row |= {f"{task} {key}": value for key, value in numbers.items()}
        row["seconds"] = every["seconds"].mean()
        row |= timed_on([r for r in records if r["method"] == method["id"]])
        values = published.reindex([method["paper_row"]]).iloc[0]
        row |= {PAPER + key: value for key, value in values.items()}
        rows.append(row)
    return pd.DataFrame(rows)


def formatted(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table as text, one column for each column of the printed table."""
    tasks, compared = [task for task in TASKS if f"{task} dice" in table], _has_paper(table)
    rows = []
    for _, row in table.iterrows():
        cells = {"Method": row["method"]}
        for task in tasks:
            title = task.capitalize()
            cells[f"{title} Dice"] = _dice(row, task)
            cells[f"{title} folds"] = _folds(row, task)
            if compared:
                diagonal = row[f"{task} folds_diagonal"]
                cells[f"{title} diag."] = "0" if diagonal == 0 else number(diagonal, 1)
            cells[f"{title} n/N"] = f"{row[f'{task} n']}/{row[f'{task} N']}"
        cells["Time (s)"] = number(row["seconds"], 2)
        if compared:
            for task in tasks:
                cells[f"Paper: {task} Dice"] = _dice(row, PAPER + task)
                cells[f"Paper: {task} folds"] = _folds(row, PAPER + task)
            cells["Paper: time (s)"] = number(row.get(f"{PAPER}seconds"), 2)
        rows.append(cells)
    return pd.DataFrame(rows)


def short(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table as text in five columns: Dice by task, folds and seconds of all pairs."""
    tasks = [task for task in TASKS if f"{task} dice" in table]
    cells = {"Method": table["method"]}
    for task in tasks:
        lost = table[f"{task} N"] - table[f"{task} n"]
        failed = lost.map(lambda n: f" ({n} failed)" if n else "")
        dice = table[f"{task} dice"].map(partial(number, digits=1))
        cells[f"{task.capitalize()} Dice"] = dice + failed
    folds = table[[f"{task} folds" for task in tasks]].mean(axis=1)
    cells["Folds"] = folds.map(lambda n: number(n, 1 if n else 0))
    cells["Seconds"] = table["seconds"].map(partial(number, digits=1))
    return pd.DataFrame(cells)


def _has_paper(table: pd.DataFrame) -> bool:
    return any(column.startswith(PAPER) for column in table)


def _dice(row: pd.Series, of: str) -> str:
    """Return `mean (sd)`."""
    mean, sd = row.get(f"{of} dice"), row.get(f"{of} sd")
    return MISSING if pd.isna(mean) else f"{number(mean, 2)} ({number(sd, 2)})"


def _folds(row: pd.Series, of: str) -> str:
    """Return `count [absolute determinants]`; the bracket is left out where there are no folds."""
    count, total = row.get(f"{of} folds"), row.get(f"{of} folds_abs")
    if pd.isna(count):
        return MISSING
    return "0" if count == 0 else f"{number(count, 1)} [{number(total, 2)}]"


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
    compared = _has_paper(table)
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
    lines += simulated_note(images)
    if trainings:
        lines.append(f"Networks: {'; '.join(map(training_text, trainings))}.")
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
        for reason, count in own["reason"][own["reason"] != ""].value_counts().items():
            lines.append(f"{method['label']}: {count} pair(s) failed: {reason}")
        undefined = int((own["value"].isna() & (own["reason"] == "")).sum())
        if undefined:
            lines.append(
                f"{method['label']}: {undefined} pair(s) without Dice: a structure in neither map."
            )
    return lines
