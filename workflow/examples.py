"""Which registrations the example figures show: the first pairs, chosen before the run."""

from typing import NamedTuple

from workflow.data.pairs import Couple
from workflow.run import Run

SYMMETRY = "vSVF-Sym"  # the part of Table 2's rows that Figure 6 shows
# Rows of a figure from above, with their titles; the paper's order.
ROWS = {
    "moving": "moving (source)",
    "fixed": "fixed (target)",
    "warped": "warped",
    "grid": "warped, deformation grid",
    "affine": "warped, affine part",
    "moving labels": "moving labels",
    "fixed labels": "fixed labels",
    "warped labels": "warped labels",
}
MAP_ROWS = {row: ROWS[row] for row in ("moving", "fixed", "warped", "grid")}
FEW, MORE = 2, 3  # pairs of each task in Figures 4 and 14


class Example(NamedTuple):
    """One registration to show; `affine` is the method that shows its affine part, if any."""

    title: str
    method: str
    pair: Couple
    affine: str | None = None


class ExampleFigure(NamedTuple):
    """A figure: some of `ROWS`, and a column for each registration."""

    rows: dict[str, str]
    columns: list[Example]


def example_figures(run: Run) -> dict[str, ExampleFigure]:
    """Return the example figures that the run's methods allow, by their number in the paper.

    4 and 14: the first method that names its affine part, on the first pairs of each task, and on
    the next. 6: with and without the symmetric loss. 12 and 13: most vSVF steps, and one case over
    all steps.
    """
    by_task = {task: [pair for pair in run.couples if pair[0] == task] for task in run.tasks}
    few = [pair for pairs in by_task.values() for pair in pairs[:FEW]]
    more = [pair for pairs in by_task.values() for pair in pairs[FEW : FEW + MORE]]
    one = by_task[run.tasks[-1]][0]  # the harder task's first
    steps = run.config["curves"]["figure8"]
    shown = next((method for method in run.methods.values() if method.affine_part), None)
    affine = shown.affine_part if shown and shown.affine_part in run.methods else None
    rows = {row: title for row, title in ROWS.items() if affine or row != "affine"}
    figures = {}
    if shown:
        for number, pairs in (("4", few), ("14", more)):
            columns = [Example(_name(pair), shown.id, pair, affine) for pair in pairs]
            figures[number] = ExampleFigure(rows, columns)
    of_parts = {frozenset(row["parts"]): row["method"] for row in run.config["table2"]}
    for parts, method in of_parts.items():
        if SYMMETRY in parts and (without := of_parts.get(parts - {SYMMETRY})):
            columns = [
                Example("with symmetric loss", method, one),
                Example("without", without, one),
            ]
            figures["6"] = ExampleFigure(MAP_ROWS, columns)
    if steps:
        last = [Example(_name(pair), steps[-1], pair) for pair in few]
        figures["12"] = ExampleFigure(MAP_ROWS, last)
        columns = [
            Example(f"{number} step(s)", method, one, affine)
            for number, method in enumerate(steps, start=1)
        ]
        figures["13"] = ExampleFigure(rows, columns)
    return {number: figure for number, figure in figures.items() if figure.columns}


def _name(pair: Couple) -> str:
    """Return a column's title."""
    task, fixed, moving = pair
    return f"{task}\n{moving}\nto {fixed}"
