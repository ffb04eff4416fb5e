"""Which registrations the example figures show: the first pairs, chosen before the run."""

from dataclasses import dataclass

from workflow.data.pairs import Couple
from workflow.run import Run

SYMMETRY = "vSVF-Sym"  # the part of Table 2's rows that Figure 6 shows
ALL_ROWS = (
    "moving", "fixed", "warped", "grid", "affine", "moving labels", "fixed labels", "warped labels",
)  # fmt: skip
MAP_ROWS = ("moving", "fixed", "warped", "grid")
FEW, MORE = 2, 3  # pairs of each task in Figures 4 and 14


@dataclass(frozen=True)
class Example:
    """One registration to show; `affine` is the method that shows its affine part, if any."""

    title: str
    method: str
    pair: Couple
    affine: str | None = None


@dataclass(frozen=True)
class ExampleFigure:
    """A figure: a column for each registration."""

    rows: tuple[str, ...]
    columns: tuple[Example, ...]


def example_figures(run: Run) -> dict[str, ExampleFigure]:
    """Return the example figures that the run's methods allow, by their number in the paper.

    4 and 14: the method of `Run.example` on the first pairs of each task, and on the next. 6: with
    and without the symmetric loss. 12 and 13: most vSVF steps, and one case over all steps.
    """
    by_task = {task: [pair for pair in run.couples if pair[0] == task] for task in run.tasks}
    few = [pair for pairs in by_task.values() for pair in pairs[:FEW]]
    more = [pair for pairs in by_task.values() for pair in pairs[FEW : FEW + MORE]]
    one = by_task[run.tasks[-1]][0]  # the harder task's first
    steps = run.config["curves"]["figure8"]
    shown = run.example
    part = run.methods[shown].affine_part if shown else None
    affine = part if part in run.methods else None
    rows = ALL_ROWS if affine else tuple(row for row in ALL_ROWS if row != "affine")
    figures = {}
    if shown:
        for number, pairs in (("4", few), ("14", more)):
            columns = tuple(Example(_name(pair), shown, pair, affine) for pair in pairs)
            figures[number] = ExampleFigure(rows, columns)
    of_parts = {frozenset(row["parts"]): row["method"] for row in run.config["table2"]}
    for parts, method in of_parts.items():
        if SYMMETRY in parts and (without := of_parts.get(parts - {SYMMETRY})):
            columns = Example("with symmetric loss", method, one), Example("without", without, one)
            figures["6"] = ExampleFigure(MAP_ROWS, columns)
    if steps:
        last = tuple(Example(_name(pair), steps[-1], pair) for pair in few)
        figures["12"] = ExampleFigure(MAP_ROWS, last)
        columns = tuple(
            Example(f"{number} step(s)", method, one, affine)
            for number, method in enumerate(steps, start=1)
        )
        figures["13"] = ExampleFigure(rows, columns)
    return {number: figure for number, figure in figures.items() if figure.columns}


def _name(pair: Couple) -> str:
    """Return a column's title."""
    task, fixed, moving = pair
    return f"{task}\n{moving}\nto {fixed}"
