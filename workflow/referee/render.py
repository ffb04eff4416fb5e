"""A summary table as Markdown and LaTeX, in the layout of the paper."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from workflow.config import TASKS
from workflow.referee.table1 import PAPER

MISSING = "--"


def _number(value: float, digits: int) -> str:
    """Format a number; a missing one is shown as such, never as 0."""
    return MISSING if pd.isna(value) else f"{value:.{digits}f}"


def _dice(row: pd.Series, task: str, prefix: str) -> str:
    """Return `mean (sd)`."""
    mean, sd = row.get(f"{prefix}{task} dice"), row.get(f"{prefix}{task} sd")
    return MISSING if pd.isna(mean) else f"{_number(mean, 2)} ({_number(sd, 2)})"


def _folds(row: pd.Series, task: str, prefix: str) -> str:
    """Return `count [absolute determinants]`; the bracket is left out where there are no folds."""
    count, total = row.get(f"{prefix}{task} folds"), row.get(f"{prefix}{task} folds_abs")
    if pd.isna(count):
        return MISSING
    return "0" if count == 0 else f"{_number(count, 1)} [{_number(total, 2)}]"


def formatted(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table as text, one column for each column of the printed table."""
    tasks = [task for task in TASKS if f"{task} dice" in table]
    rows = []
    for _, row in table.iterrows():
        cells = {"Method": row["method"]}
        for prefix, group in (("", ""), (PAPER, "Paper: ")):
            for task in tasks:
                title = f"{group}{task.capitalize() if not group else task}"
                cells[f"{title} Dice"] = _dice(row, task, prefix)
                cells[f"{title} folds"] = _folds(row, task, prefix)
            cells[f"{group}{'time' if group else 'Time'} (s)"] = _number(
                row.get(f"{prefix}seconds"), 2
            )
            if not group:
                cells["n/N"] = " ".join(f"{row[f'{t} n']}/{row[f'{t} N']}" for t in tasks)
        rows.append(cells)
    return pd.DataFrame(rows)


def markdown(table: pd.DataFrame, notes: Sequence[str]) -> str:
    """Return the table in Markdown with its notes."""
    text = formatted(table)
    lines = [
        "| " + " | ".join(text.columns) + " |",
        "|:--" + "|--:" * (len(text.columns) - 1) + "|",
    ]
    lines += ["| " + " | ".join(row) + " |" for row in text.itertuples(index=False)]
    return "\n".join([*lines, "", *(f"- {note}" for note in notes), ""])


def latex(table: pd.DataFrame, notes: Sequence[str]) -> str:
    """Return the table as a LaTeX `tabular` (package booktabs) with its notes as comments."""
    text = formatted(table)
    lines = [
        *(f"% {note}" for note in notes),
        r"\begin{tabular}{l" + "r" * (len(text.columns) - 1) + "}",
        r"\toprule",
        " & ".join(_escape(title) for title in text.columns) + r" \\",
        r"\midrule",
    ]
    lines += [" & ".join(map(_escape, row)) + r" \\" for row in text.itertuples(index=False)]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def _escape(text: str) -> str:
    """Escape what LaTeX would read as a command; a leading bracket would be an option."""
    for character in "&%$#_{}":
        text = text.replace(character, "\\" + character)
    return text
