"""A summary table as Markdown and LaTeX, in the layout of the paper."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from workflow.config import TASKS
from workflow.referee.table1 import PAPER

MISSING = "--"
LATEX = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "[": "{[}", "]": "{]}",  # a bracket that follows \\ would be read as an option
} | {character: f"\\{character}" for character in "&%$#_{}"}  # fmt: skip


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


def _diagonal(row: pd.Series, task: str) -> str:
    """Return the authors' count of folds."""
    count = row[f"{task} folds_diagonal"]
    return "0" if count == 0 else _number(count, 1)


def formatted(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table as text, one column for each column of the printed table."""
    tasks = [task for task in TASKS if f"{task} dice" in table]
    rows = []
    for _, row in table.iterrows():
        cells = {"Method": row["method"]}
        for task in tasks:
            title = task.capitalize()
            cells[f"{title} Dice"] = _dice(row, task, "")
            cells[f"{title} folds"] = _folds(row, task, "")
            cells[f"{title} diag."] = _diagonal(row, task)
            cells[f"{title} n/N"] = f"{row[f'{task} n']}/{row[f'{task} N']}"
        cells["Time (s)"] = _number(row["seconds"], 2)
        for task in tasks:
            cells[f"Paper: {task} Dice"] = _dice(row, task, PAPER)
            cells[f"Paper: {task} folds"] = _folds(row, task, PAPER)
        cells["Paper: time (s)"] = _number(row.get(f"{PAPER}seconds"), 2)
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
    """Return the table as a LaTeX `tabular` (package booktabs), its notes typeset below it."""
    text = formatted(table)
    lines = [
        r"\begin{tabular}{l" + "r" * (len(text.columns) - 1) + "}",
        r"\toprule",
        " & ".join(_escape(title) for title in text.columns) + r" \\",
        r"\midrule",
    ]
    lines += [" & ".join(map(_escape, row)) + r" \\" for row in text.itertuples(index=False)]
    lines += [r"\bottomrule", r"\end{tabular}", "", r"\begin{footnotesize}"]
    lines += [_escape(note) + r" \\" for note in notes]
    return "\n".join([*lines, r"\end{footnotesize}", ""])


def _escape(text: str) -> str:
    """Escape what LaTeX would read as a command."""
    return "".join(LATEX.get(character, character) for character in text)
