"""Table 3: what mean Dice does not say, for each method and task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from workflow.referee.render import MISSING, number, signed
from workflow.referee.statistics import (
    Ranks,
    Resampling,
    compare,
    interval_of,
    patients_of,
    rank,
    resample,
)
from workflow.referee.tidy import BOUNDS, SCANS, pair_values

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


class Comparison(NamedTuple):
    """All methods on the pairs of one task.

    pairs : a row a directed pair and method, see `pair_values`, with `before`, its Dice in % before
        registration (NaN without such a row), and `dice_or_before`, which replaces the Dice of
        failed registrations: whoever gets none is left with that.
    dice : `dice_or_before`, one row a pair, one column a method that is no control.
    fixed, moving : patient of each row of `dice`.
    resampling : of its rows.
    """

    pairs: pd.DataFrame
    dice: pd.DataFrame
    fixed: np.ndarray
    moving: np.ndarray
    resampling: Resampling

    def compare(self) -> pd.DataFrame:
        """Compare all methods with each other, see `statistics.compare`."""
        return compare(self.dice, self.resampling)

    def rank(self) -> Ranks:
        """Rank all methods, see `statistics.rank`."""
        return rank(self.dice, self.fixed, self.moving, self.resampling)


def gather(
    metrics: pd.DataFrame,
    methods: Sequence[dict],
    task: str,
    patients: Mapping[str, str],
    seed: int,
) -> Comparison:
    """Bring the scores of one task together.

    Pairs in which some method has no Dice and nothing to replace it are left out of `dice`.

    Parameters
    ----------
    patients : of each scan.
    """
    pairs = pair_values(metrics)
    pairs = pairs[pairs["task"] == task].copy()
    controls = [method["id"] for method in methods if method["kind"] == "control"]
    before = pairs[pairs["method"].isin(controls)].groupby(SCANS)["dice"].first()
    keys = pd.MultiIndex.from_frame(pairs[SCANS])
    pairs["before"] = before.reindex(keys).to_numpy()
    pairs["dice_or_before"] = pairs["dice"].fillna(pairs["before"])
    wide = pairs.pivot(index=SCANS, columns="method", values="dice_or_before")
    wide = wide[[m["id"] for m in methods if m["id"] not in controls and m["id"] in wide]].dropna()
    fixed, moving = patients_of(wide.index, patients)
    return Comparison(pairs, wide, fixed, moving, resample(fixed, moving, seed))


def gather_tasks(
    metrics: pd.DataFrame,
    methods: Sequence[dict],
    tasks: Sequence[str],
    patients: Mapping[str, str],
    seed: int,
) -> dict[str, Comparison]:
    """Bring the scores of each task together, see `gather`."""
    return {task: gather(metrics, methods, task, patients, seed) for task in tasks}


def summarise(
    comparison: Comparison, methods: Sequence[dict], patients: Mapping[str, str], seed: int
) -> pd.DataFrame:
    """Return the numbers of Table 3, a row a method in the given order.

    dice, low, high : mean over the pairs that succeeded, in %, and its 95 % interval by patients,
        cut off where Dice ends.
    hardest : mean Dice of the 30 % of the pairs that were worst before registration, failed ones
        counted as before; NaN without a control.
    worse : part of the pairs, in %, that failed or are worse than before registration; NaN without
        a control.
    rank, rank low, rank high : see `statistics.Ranks`; none for controls.
    The means of the measures of `PRINTED` are over the pairs that succeeded.
    """
    ranks = comparison.rank().table if comparison.dice.size else pd.DataFrame()
    rows = []
    for method in methods:
        own = comparison.pairs[comparison.pairs["method"] == method["id"]]
        scored, succeeded = own[own["dice"].notna()], own[own["reason"] == ""]
        row: dict[str, object] = {"method": method["label"], "dice": scored["dice"].mean()}
        dice = scored.set_index(SCANS)["dice"]
        row["low"], row["high"] = interval_of(dice, patients, seed, BOUNDS["dice"])
        row["hardest"] = _hardest(own)
        judged = own[own["before"].notna() & ((own["reason"] != "") | own["dice"].notna())]
        worse = (judged["reason"] != "") | (judged["dice"] < judged["before"])
        row["worse"] = 100 * worse.mean()
        row |= {metric: succeeded[metric].mean() for metric in PRINTED if metric in succeeded}
        if method["id"] in ranks.index:
            found = ranks.loc[method["id"]]
            row |= {"rank": found["rank"], "rank low": found["low"], "rank high": found["high"]}
        rows.append(row)
    return pd.DataFrame(rows)


def formatted(table: pd.DataFrame) -> pd.DataFrame:
    """Return one task's table as text, one column for each column of the printed table."""
    rows = []
    for _, row in table.iterrows():
        cells = {"Method": row["method"]}
        cells["Dice [95 %]"] = _with_limits(row["dice"], row.get("low"), row.get("high"), 2)
        cells["Hardest 30 %"] = number(row["hardest"], 2)
        cells["Worse than before (%)"] = number(row["worse"], 1)
        cells |= {
            title: number(row[name], digits)
            for name, (title, digits) in PRINTED.items()
            if name in row
        }
        rank = (row.get("rank"), row.get("rank low"), row.get("rank high"))
        cells["Rank [95 %]"] = _with_limits(*rank, 1)
        rows.append(cells)
    return pd.DataFrame(rows)


def compared(table: pd.DataFrame, labels: Mapping[str, str]) -> pd.DataFrame:
    """Return the comparisons of one task (`Comparison.compare`) as text, methods by label."""
    rows = [
        {
            "Method": labels[row["a"]],
            "Against": labels[row["b"]],
            "Difference [95 %]": signed(row["difference"], row["low"], row["high"]),
            "p": number(row["p"], 4),
            "p (Holm)": number(row["p_holm"], 4),
        }
        for _, row in table.iterrows()
    ]
    return pd.DataFrame(rows, columns=["Method", "Against", "Difference [95 %]", "p", "p (Holm)"])


def _with_limits(value: float, low: float | None, high: float | None, digits: int) -> str:
    """Return `value [low, high]`."""
    if pd.isna(value):
        return MISSING
    limits = "" if pd.isna(low) else f" [{number(low, digits)}, {number(high, digits)}]"
    return number(value, digits) + limits


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
        if not comparison.dice.size:
            continue
        lines.append(f"{task.capitalize()}: {_tests(comparison)}.")
    return lines


def _tests(comparison: Comparison) -> str:
    """Say what the tests of a task found."""
    found, resampling = comparison.rank(), comparison.resampling
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


def _hardest(own: pd.DataFrame) -> float:
    """Return the mean Dice of the pairs that were worst before registration."""
    known = own.dropna(subset=["before"]).sort_values("before", kind="stable")
    return known["dice_or_before"].head(int(np.ceil(HARDEST * len(known)))).mean()
