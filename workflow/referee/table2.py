"""Table 2 of the paper: what each part of AVSM adds, the paper's numbers beside ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from workflow.referee.notes import training_text
from workflow.referee.render import MISSING, number, signed
from workflow.referee.statistics import interval_of
from workflow.referee.table3 import Comparison
from workflow.referee.tidy import SCANS

# Parts of the method, in the order of the paper's columns.
PARTS = (
    "Af-Reg", "Af-Multi", "Af-Sym", "Af-MK", "vSVF", "vSVF-MK", "vSVF-Multi", "vSVF-Sym",
)  # fmt: skip
YES, NO = "✓", "✗"
FAILED = "fails"


def summarise(
    rows: Sequence[dict],
    comparisons: Mapping[str, Comparison],
    patients: Mapping[str, str],
    paper: pd.DataFrame | None,
    seed: int,
) -> pd.DataFrame:
    """Return the numbers of Table 2, a row for each of the configuration's.

    For each task: `dice`, the mean over the pairs in %; `gain`, what it adds to the row above, and
    the 95 % interval `low`, `high` of that by patients; `fails`, whether it brings less than no
    registration does; the paper's Dice, if it is given.

    Parameters
    ----------
    rows : ``{row, method, parts}`` as configured.
    comparisons : of the rows' methods, by task, see `table3.gather`.
    patients : of each scan.
    paper : the published numbers, a row each, or none.
    """
    published = None if paper is None else paper.set_index("row")
    found = []
    for place, row in enumerate(rows):
        entry: dict[str, object] = {"row": row["row"]}
        entry |= {part: part in row["parts"] for part in PARTS}
        above = rows[place - 1]["method"] if place else None
        for task, comparison in comparisons.items():
            numbers = _of_task(comparison, row["method"], above, patients, seed)
            if published is not None:
                numbers["paper"] = published[task].get(row["row"], np.nan)
            entry |= {f"{task} {key}": value for key, value in numbers.items()}
        found.append(entry)
    return pd.DataFrame(found)


def _of_task(
    comparison: Comparison, method: str, above: str | None, patients: Mapping[str, str], seed: int
) -> dict[str, float | bool]:
    """Return one row's numbers of one task; failed registrations count as none."""
    pairs = comparison.pairs.pivot(index=SCANS, columns="method", values="dice_or_before")
    before = comparison.pairs.groupby(SCANS)["before"].first()
    own = pairs[method]
    result = {"dice": own.mean(), "fails": bool(own.mean() <= before.mean())}
    if above is None:
        return result | {"gain": np.nan, "low": np.nan, "high": np.nan}
    gain = (own - pairs[above]).dropna()
    low, high = interval_of(gain, patients, seed)
    return result | {"gain": gain.mean(), "low": low, "high": high}


def formatted(table: pd.DataFrame, tasks: Sequence[str]) -> pd.DataFrame:
    """Return the table as text, one column for each column of the printed table."""
    lines = []
    for place, (_, row) in enumerate(table.iterrows()):
        cells = {"": row["row"]} | {part: YES if row[part] else "" for part in PARTS}
        for task in tasks:
            title = task.capitalize()
            fails = f" ({FAILED})" if row[f"{task} fails"] else ""
            cells[f"{title} Dice"] = number(row[f"{task} dice"], 2) + fails
            cells[f"{title} better?"] = _better(row, task) if place else MISSING
            if f"{task} paper" in row:
                cells[f"Paper: {task}"] = number(row[f"{task} paper"], 2)
        lines.append(cells)
    return pd.DataFrame(lines)


def _better(row: pd.Series, task: str) -> str:
    """Return whether a row is better than the one above, by how much, with the interval."""
    gain, low, high = (row[f"{task} {key}"] for key in ("gain", "low", "high"))
    if pd.isna(gain):
        return MISSING
    return f"{YES if gain > 0 else NO} {signed(gain, low, high)}"


def notes(trainings: Sequence[dict], paper: bool) -> list[str]:
    """Return the lines under the table; `trainings` are the networks' `training.json`."""
    lines = [
        "Dice: mean over the directed pairs in %. Better: than the row above, with the difference "
        "and its 95 % interval by patients.",
        f"{FAILED}: no more Dice than before registration. Failed pairs count as before.",
    ]
    if paper:
        lines.append(
            "Paper: Shen et al., CVPR 2019, Table 2 (80x192x192 voxels of OAI; for orientation "
            "only)."
        )
    return [*lines, f"Networks: {'; '.join(map(training_text, trainings))}."]
