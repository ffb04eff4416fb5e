"""Tables of text as Markdown, LaTeX and an HTML page whose tables can be sorted."""

import html
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from string import Template

import pandas as pd

from avsm.files import write_text

Tables = Mapping[str, pd.DataFrame]  # of text, by heading; "": none

PAGE = Path(__file__).with_name("page.html")

MISSING = "--"
LATEX = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}",
    "[": "{[}", "]": "{]}",  # a bracket that follows \\ would be read as an option
} | {character: f"\\{character}" for character in "&%$#_{}"}  # fmt: skip


def number(value: float, digits: int) -> str:
    """Format a number; a missing one is shown as such, never as 0."""
    return MISSING if pd.isna(value) else f"{value:.{digits}f}"


def with_limits(value: float, low: float, high: float, form: str) -> str:
    """Format a number and, where it is known, its interval, as in `25.1 [20.0, 30.2]`."""
    limits = "" if pd.isna(low) else f" [{low:{form}}, {high:{form}}]"
    return MISSING if pd.isna(value) else f"{value:{form}}{limits}"


def write_table(
    paths: Iterable[str], title: str, table: pd.DataFrame, texts: Tables, notes: Sequence[str] = ()
) -> None:
    """Write a table to every path as its suffix says: its numbers, or as text with notes."""
    for path in paths:
        suffix = Path(path).suffix
        if suffix == ".csv":
            write_text(path, table.to_csv(index=False))
        elif suffix == ".html":
            write_text(path, page(title, texts, notes))
        else:
            write_text(path, {".md": markdown, ".tex": latex}[suffix](texts, notes))


def markdown(tables: Tables, notes: Sequence[str]) -> str:
    """Return tables of text in Markdown, then their notes."""
    lines = []
    for heading, text in tables.items():
        lines += [f"**{heading}**", ""] if heading else []
        lines.append("| " + " | ".join(text.columns) + " |")
        lines.append("|" + "".join(":--|" if left else "--:|" for left in _are_words(text)))
        lines += ["| " + " | ".join(row) + " |" for row in text.itertuples(index=False)]
        lines.append("")
    return "\n".join([*lines, *(f"- {note}" for note in notes), ""])


def latex(tables: Tables, notes: Sequence[str]) -> str:
    """Return tables of text as LaTeX `tabular`s (package booktabs), then their notes."""
    lines = []
    for heading, text in tables.items():
        lines += [rf"\textbf{{{_escape(heading)}}}", ""] if heading else []
        sides = "".join("l" if left else "r" for left in _are_words(text))
        lines += [rf"\begin{{tabular}}{{{sides}}}", r"\toprule"]
        lines += [" & ".join(map(_escape, text.columns)) + r" \\", r"\midrule"]
        lines += [" & ".join(map(_escape, row)) + r" \\" for row in text.itertuples(index=False)]
        lines += [r"\bottomrule", r"\end{tabular}", ""]
    lines.append(r"\begin{footnotesize}")
    lines += [_escape(note) + r" \\" for note in notes]
    return "\n".join([*lines, r"\end{footnotesize}", ""])


def page(title: str, tables: Tables, notes: Sequence[str]) -> str:
    """Return a self-contained page with tables that are sorted by the column that is clicked."""
    parts = []
    for heading, text in tables.items():
        parts += [f"<h2>{html.escape(heading)}</h2>"] if heading else []
        with pd.option_context("display.max_colwidth", None):
            parts.append(text.to_html(index=False, border=0, classes="sortable"))
    parts += ["<ul>", *(f"<li>{html.escape(note)}</li>" for note in notes), "</ul>"]
    template = Template(PAGE.read_text(encoding="utf-8"))
    return template.substitute(title=html.escape(title), body="\n".join(parts))


def _are_words(text: pd.DataFrame) -> list[bool]:
    """Return which columns are words, to be aligned on the left: the first, and any with a word."""
    return [
        place == 0 or any(cell[:1].isalpha() for cell in text[name])
        for place, name in enumerate(text.columns)
    ]


def _escape(text: str) -> str:
    """Escape what LaTeX would read as a command."""
    return "".join(LATEX.get(character, character) for character in text)
