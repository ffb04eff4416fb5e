"""Tables of text as Markdown and LaTeX."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

MISSING = "--"
LATEX = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}",
    "[": "{[}", "]": "{]}",  # a bracket that follows \\ would be read as an option
} | {character: f"\\{character}" for character in "&%$#_{}"}  # fmt: skip


def number(value: float, digits: int) -> str:
    """Format a number; a missing one is shown as such, never as 0."""
    return MISSING if pd.isna(value) else f"{value:.{digits}f}"


def signed(difference: float, low: float, high: float) -> str:
    """Format a difference with its sign and, where it is known, its interval."""
    limits = "" if pd.isna(low) else f" [{low:+.1f}, {high:+.1f}]"
    return f"{difference:+.1f}{limits}"


def markdown(text: pd.DataFrame, notes: Sequence[str]) -> str:
    """Return a table of text in Markdown with its notes."""
    lines = [
        "| " + " | ".join(text.columns) + " |",
        "|:--" + "|--:" * (len(text.columns) - 1) + "|",
    ]
    lines += ["| " + " | ".join(row) + " |" for row in text.itertuples(index=False)]
    return "\n".join([*lines, "", *(f"- {note}" for note in notes), ""])


def latex(text: pd.DataFrame, notes: Sequence[str]) -> str:
    """Return a table of text as a LaTeX `tabular` (package booktabs), its notes below it."""
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
