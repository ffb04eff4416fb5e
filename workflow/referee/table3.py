"""Table 3: what mean Dice does not say, for each method and task; and all comparisons."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from workflow.referee.render import number, with_limits
from workflow.referee.statistics import Comparison
from workflow.referee.tidy import BOUNDS, SCANS

HARDEST = 0.3  # of the pairs, by Dice before registration
PRINTED = {  # mean of a measure: its title and digits in the printed table
    "tre": ("Target error (mm)", 2),
    "hd95": ("HD95 (mm)", 2),
    "assd": ("ASSD (mm)", 2),
    "inverse_error": ("There and back (mm)", 2),
    "sdlogj": ("SDlogJ", 3),
    "nonpositive_percent": ("det <= 0 (%)", 4),
    "ndv_percent": ("Folded volume (%)", 4),
}
RANKS = {"rank": "rank", "low": "rank low", "high": "rank high"}


def compute(comparisons: Mapping[str, Comparison], methods: Sequence[dict]) -> pd.DataFrame:
    """Return the numbers of the table, a row a task and method in the given order.

    dice, low, high : mean over the pairs that succeeded, in %, and its 95 % interval by patients,
        cut off where Dice ends.
    hardest : mean Dice of the 30 % of the pairs that were worst before registration, failed ones
        counted as before; NaN without a control.
    worse : part of the pairs, in %, that failed or are worse than before registration; NaN without
        a control.
    rank, rank low, rank high : see `statistics.Ranks`; none for controls.
    The means of the measures of `PRINTED` are over the pairs that succeeded.
    """
    return pd.DataFrame(
        [
            {"task": task, "method": method["label"]} | _numbers(comparison, method["id"])
            for task, comparison in comparisons.items()
            for method in methods
        ]
    )


def _numbers(comparison: Comparison, method: str) -> dict[str, float]:
    """Return the numbers of one method and task."""
    own = comparison.pairs[comparison.pairs["method"] == method]
    scored, succeeded = own[own["dice"].notna()], own[own["reason"] == ""]
    low, high = comparison.interval(scored.set_index(SCANS)["dice"], BOUNDS["dice"])
    known = own[own["before"].notna()].sort_values("before", kind="stable")
    hardest = known.head(int(np.ceil(HARDEST * len(known))))
    judged = known[(known["reason"] != "") | known["dice"].notna()]
    worse = (judged["reason"] != "") | (judged["dice"] < judged["before"])
    numbers = {"dice": scored["dice"].mean(), "low": low, "high": high}
    numbers |= {"hardest": hardest["dice_or_before"].mean(), "worse": 100 * worse.mean()}
    numbers |= {metric: succeeded[metric].mean() for metric in PRINTED if metric in succeeded}
    if comparison.dice.size and method in comparison.dice:
        numbers |= comparison.ranks.table.loc[method, [*RANKS]].rename(RANKS)
    return numbers


def formatted(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return the table as text, one for each task, with the columns of the printed table."""
    texts: dict[str, list[dict]] = {}
    for _, row in table.iterrows():
        cells = {"Method": row["method"]}
        cells["Dice [95 %]"] = with_limits(row["dice"], row["low"], row["high"], ".2f")
        cells["Hardest 30 %"] = number(row["hardest"], 2)
        cells["Worse than before (%)"] = number(row["worse"], 1)
        cells |= {
            title: number(row[name], digits)
            for name, (title, digits) in PRINTED.items()
            if name in row
        }
        cells["Rank [95 %]"] = with_limits(*map(row.get, RANKS.values()), ".1f")
        texts.setdefault(row["task"].capitalize(), []).append(cells)
    return {task: pd.DataFrame(rows) for task, rows in texts.items()}


def notes(comparisons: Mapping[str, Comparison]) -> list[str]:
    """Return the lines under the table: definitions, patients and tests of each task."""
    lines = [
        "Dice: mean of the structures in %, with its 95 % interval; intervals and tests draw "
        "patients, not pairs. Hardest: mean of the 30 % of the pairs that were worst before "
        "registration.",
        "Worse than before: pairs that failed or have less Dice than before registration.",
        "Target error (phantom alone): of points of the structures, whose true place is known. "
        "HD95, ASSD: mean of the structures. There and back: by how much both directions together "
        "miss the start. SDlogJ, determinants and folded volume: of the composed map.",
        "Rank: mean over the pairs, with its 95 % interval. Failed registrations count as none.",
    ]
    for task, comparison in comparisons.items():
        if comparison.dice.size:
            lines.append(f"{task.capitalize()}: {_tests(comparison)}.")
    return lines


def _tests(comparison: Comparison) -> str:
    """Say what the tests of a task found."""
    found, resampling = comparison.ranks, comparison.resampling
    patients = {*comparison.fixed, *comparison.moving}
    couples = {frozenset(pair) for pair in zip(comparison.fixed, comparison.moving, strict=True)}
    texts = [f"{len(comparison.dice)} directed pairs of {len(patients)} patients"]
    if any(len(couple) > 1 for couple in couples):
        texts[0] += f" in {len(couples)} couples"
    if resampling.units < 2:
        texts.append("too few for intervals and tests")
    if resampling.common is not None:
        texts.append(f"all with {resampling.common}, for whom alone the intervals hold")
    if np.isfinite(found.p):
        texts.append(
            f"methods differ with p = {found.p:.2g} (Friedman, {found.blocks} blocks without a "
            f"patient in common; Nemenyi's critical difference of mean ranks over these blocks, "
            f"which the ranking figure has, {found.critical:.1f})"
        )
    elif resampling.units > 1:
        texts.append(
            f"no test of all methods at once: {found.blocks} blocks of pairs without a patient in "
            f"common, {comparison.dice.shape[1]} methods; it takes 3 of each"
        )
    if np.isfinite(found.stability):
        texts.append(
            "the order when patients are redrawn agrees with that of all with Kendall's tau = "
            f"{found.stability:.2f}"
        )
    return "; ".join(texts)


def formatted_tests(tests: pd.DataFrame, labels: Mapping[str, str]) -> pd.DataFrame:
    """Return the comparisons of one task (`Comparison.tests`) as text, methods by label."""
    limits = zip(tests["difference"], tests["low"], tests["high"], strict=True)
    return pd.DataFrame(
        {
            "Method": tests["a"].map(labels),
            "Against": tests["b"].map(labels),
            "Difference [95 %]": [with_limits(*found, "+.1f") for found in limits],
            "p": [number(p, 4) for p in tests["p"]],
            "p (Holm)": [number(p, 4) for p in tests["p_holm"]],
        }
    )
