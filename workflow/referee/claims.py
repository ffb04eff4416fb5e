"""The paper's claims, judged by this run: supported, contradicted, or not decided."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from workflow.referee.render import MISSING, signed
from workflow.referee.statistics import interval_of
from workflow.referee.tidy import SCANS, pair_values

SUPPORTED, CONTRADICTED, OPEN, ABSENT = "supported", "contradicted", "not decided", "not tested"
UNITS = {"dice": "Dice points", "symmetry": "of the symmetry measure", "folds": "folds"}


def judge(
    claims: Sequence[dict],
    metrics: pd.DataFrame,
    methods: Sequence[dict],
    tasks: Sequence[str],
    patients: Mapping[str, str],
    seed: int,
    rows_of_table2: Mapping[str, str],
) -> pd.DataFrame:
    """Return a row for each claim and task of the run.

    `difference` is the mean over the pairs that both methods registered, `low` and `high` its 95 %
    interval by patients; `verdict` says whether the interval lies where the claim has it
    (supported), where it cannot be (contradicted), or neither (not decided).

    Parameters
    ----------
    claims : as in `paper_claims.yaml`.
    methods : descriptions of all methods of the run.
    patients : of each scan.
    rows_of_table2 : the method in each.
    """
    named = {f"row {row}": method for row, method in rows_of_table2.items()}
    pairs = pair_values(metrics)
    rows = []
    for claim in claims:
        for task in [task for task in claim["tasks"] if task in tasks]:
            own = pairs[pairs["task"] == task]
            wide = own.pivot(index=SCANS, columns="method", values=claim["measure"])
            a, b = (named.get(claim[side], claim[side]) for side in "ab")
            b = _best_other(wide, methods) if b == "best" else b
            row = {"claim": claim["claim"], "task": task, "measure": claim["measure"]}
            row |= {"a": a, "b": b, "expect": claim["expect"]}
            if a in wide and b in wide:
                row |= _difference(wide[a] - wide[b], patients, seed)
                margin = claim.get("margin", 0.0)
                row["verdict"] = verdict(claim["expect"], row["low"], row["high"], margin)
            else:
                row["verdict"] = ABSENT
            rows.append(row)
    return pd.DataFrame(rows)


def _best_other(wide: pd.DataFrame, methods: Sequence[dict]) -> str | None:
    """Return the method with the highest mean of those in the paper that are not AVSM."""
    others = [
        method["id"]
        for method in methods
        if method["paper_row"] and "AVSM" not in method["label"] and method["id"] in wide
    ]
    return wide[others].mean().idxmax() if others else None


def _difference(values: pd.Series, patients: Mapping[str, str], seed: int) -> dict[str, float]:
    """Return the mean of differences and its interval."""
    known = values[np.isfinite(values)]
    low, high = interval_of(known, patients, seed)
    return {"difference": float(known.mean()), "low": low, "high": high}


def verdict(expect: str, low: float, high: float, margin: float) -> str:
    """Judge an interval; one that is not known decides nothing."""
    if expect == "less":
        low, high = -high, -low
    if expect == "alike":
        if -margin < low and high < margin:
            return SUPPORTED
        return CONTRADICTED if low > margin or high < -margin else OPEN
    least = -margin if expect == "not-less" else 0.0
    if low > least:
        return SUPPORTED
    return CONTRADICTED if high < least else OPEN


def formatted(table: pd.DataFrame, labels: Mapping[str, str]) -> pd.DataFrame:
    """Return the table as text: the paper says, this run says."""
    rows = []
    for _, row in table.iterrows():
        text = MISSING
        if row["verdict"] != ABSENT:
            a, b = (labels[row[side]] for side in "ab")
            difference = signed(row["difference"], row["low"], row["high"])
            text = f"{a} against {b}: {difference} {UNITS[row['measure']]}"
        rows.append(
            {
                "The paper says": row["claim"],
                "Pairs": row["task"],
                "This run says": row["verdict"],
                "Difference [95 %]": text,
            }
        )
    return pd.DataFrame(rows)
