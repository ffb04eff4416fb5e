"""Table 1 of the paper: Dice, folds and time of every method, the paper's numbers beside ours."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from workflow.config import TASKS
from workflow.referee.notes import PAPER, has_paper, timed_on
from workflow.referee.render import MISSING, number
from workflow.referee.tidy import pair_values


def summarise(
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
        own = pairs[pairs["method"] == method["id"]]
        row: dict[str, object] = {"method": method["label"]}
        for task in tasks:
            numbers = _of_task(own[own["task"] == task])
            row |= {f"{task} {key}": value for key, value in numbers.items()}
        row["seconds"] = own["seconds"].mean()
        row |= _circumstances([r for r in records if r["method"] == method["id"]])
        values = published.reindex([method["paper_row"]]).iloc[0]
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
    devices = {timed_on(entry, record) for record in records for entry in record["registrations"]}
    threads = {str(record["threads"]) for record in records}
    return {"device": ", ".join(sorted(devices)), "threads": ", ".join(sorted(threads))}


def formatted(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table as text, one column for each column of the printed table."""
    tasks, compared = [task for task in TASKS if f"{task} dice" in table], has_paper(table)
    rows = []
    for _, row in table.iterrows():
        cells = {"Method": row["method"]}
        for task in tasks:
            title = task.capitalize()
            cells[f"{title} Dice"] = _dice(row, task, "")
            cells[f"{title} folds"] = _folds(row, task, "")
            if compared:
                cells[f"{title} diag."] = _diagonal(row, task)
            cells[f"{title} n/N"] = f"{row[f'{task} n']}/{row[f'{task} N']}"
        cells["Time (s)"] = number(row["seconds"], 2)
        if compared:
            for task in tasks:
                cells[f"Paper: {task} Dice"] = _dice(row, task, PAPER)
                cells[f"Paper: {task} folds"] = _folds(row, task, PAPER)
            cells["Paper: time (s)"] = number(row.get(f"{PAPER}seconds"), 2)
        rows.append(cells)
    return pd.DataFrame(rows)


def _dice(row: pd.Series, task: str, prefix: str) -> str:
    """Return `mean (sd)`."""
    mean, sd = row.get(f"{prefix}{task} dice"), row.get(f"{prefix}{task} sd")
    return MISSING if pd.isna(mean) else f"{number(mean, 2)} ({number(sd, 2)})"


def _folds(row: pd.Series, task: str, prefix: str) -> str:
    """Return `count [absolute determinants]`; the bracket is left out where there are no folds."""
    count, total = row.get(f"{prefix}{task} folds"), row.get(f"{prefix}{task} folds_abs")
    if pd.isna(count):
        return MISSING
    return "0" if count == 0 else f"{number(count, 1)} [{number(total, 2)}]"


def _diagonal(row: pd.Series, task: str) -> str:
    """Return the authors' count of folds."""
    count = row[f"{task} folds_diagonal"]
    return "0" if count == 0 else number(count, 1)
