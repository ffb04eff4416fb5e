"""Table 2 of the paper: what each part of AVSM adds, the paper's numbers beside ours."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from workflow.referee.fairness import training_text
from workflow.referee.render import MISSING, number, with_limits
from workflow.referee.statistics import Comparison
from workflow.referee.tidy import SCANS

PUBLISHED = Path(__file__).with_name("paper_table2.csv")
# Parts of the method, in the order of the paper's columns.
PARTS = (
    "Af-Reg", "Af-Multi", "Af-Sym", "Af-MK", "vSVF", "vSVF-MK", "vSVF-Multi", "vSVF-Sym",
)  # fmt: skip
YES, NO = "✓", "✗"
FAILED = "fails"


def compute(
    rows: Sequence[dict], comparisons: Mapping[str, Comparison], paper: pd.DataFrame | None
) -> pd.DataFrame:
    """Return the numbers of Table 2, a row for each of the configuration's.

    For each task: `dice`, the mean over the pairs in %; `gain`, what it adds to the row above, and
    the 95 % interval `low`, `high` of that by patients; `fails`, whether it brings less than no
    registration does; the paper's Dice, if it is given. Failed registrations count as none.
    `rows` are ``{row, method, parts}`` as configured, `comparisons` of their methods by task.
    """
    published = None if paper is None else paper.set_index("row")
    found = []
    for above, row in zip([None, *rows], rows, strict=False):
        entry: dict[str, object] = {"row": row["row"]}
        entry |= {part: part in row["parts"] for part in PARTS}
        for task, comparison in comparisons.items():
            pairs = comparison.wide("dice_or_before")
            before = comparison.pairs.groupby(SCANS)["before"].first()
            own = pairs[row["method"]]
            numbers = {"dice": own.mean(), "fails": bool(own.mean() <= before.mean())}
            gain = (own - pairs[above["method"]]).dropna() if above else pd.Series(dtype=float)
            low, high = comparison.interval(gain)
            numbers |= {"gain": gain.mean(), "low": low, "high": high}
            if published is not None:
                numbers["paper"] = published[task].get(row["row"], np.nan)
            entry |= {f"{task} {key}": value for key, value in numbers.items()}
        found.append(entry)
    return pd.DataFrame(found)


def formatted(table: pd.DataFrame, tasks: Sequence[str]) -> pd.DataFrame:
    """Return the table as text, one column for each column of the printed table."""
    lines = []
    for _, row in table.iterrows():
        cells = {"": row["row"]} | {part: YES if row[part] else "" for part in PARTS}
        for task in tasks:
            title = task.capitalize()
            fails = f" ({FAILED})" if row[f"{task} fails"] else ""
            cells[f"{title} Dice"] = number(row[f"{task} dice"], 2) + fails
            gain, low, high = (row[f"{task} {key}"] for key in ("gain", "low", "high"))
            better = f"{YES if gain > 0 else NO} {with_limits(gain, low, high, '+.1f')}"
            cells[f"{title} better?"] = MISSING if pd.isna(gain) else better
            if f"{task} paper" in row:
                cells[f"Paper: {task}"] = number(row[f"{task} paper"], 2)
        lines.append(cells)
    return pd.DataFrame(lines)


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
