"""The paper's claims, judged by this run: supported, or not supported here, and why not."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from workflow.referee.render import MISSING, with_limits
from workflow.referee.statistics import Comparison

CLAIMS = Path(__file__).with_name("paper_claims.yaml")
SUPPORTED, ABSENT = "supported", "not tested"
CONTRADICTED = "not supported here: contradicted"
OPEN = "not supported here: not decided"
EQUAL = "not supported here: no difference"
MEASURES = {"dice": "dice_or_before"}  # columns of pairs that differ from a measure's name
UNITS = {"dice": "Dice points", "symmetry": "of the symmetry measure", "folds": "folds"}
NOTES = [
    "Supported or contradicted: the 95 % interval by patients lies where the claim has it, or "
    "where it cannot be. Much and little: more than 2 Dice points, and less; saturate: within 1. "
    "Not tested: the run lacks a method.",
    "Best: against the best of the paper's other methods; as it is chosen on these pairs, the "
    "interval is one that holds for all of them (Bonferroni). Dice of failed pairs: as before "
    "registration.",
]


def compute(
    claims: Sequence[dict],
    comparisons: Mapping[str, Comparison],
    methods: Sequence[dict],
    rows_of_table2: Mapping[str, str],
) -> pd.DataFrame:
    """Return a row for each claim (see `paper_claims.yaml`) and task of the run.

    `difference` is a mean over pairs, `low` and `high` its 95 % interval by patients; `verdict`
    says whether the interval lies where the claim has it (supported), where it cannot be
    (contradicted), or neither (not decided). Failed pairs have the Dice from before registration;
    `without` counts pairs that lack the measure for one of the two. `rows_of_table2` gives the
    method in each.
    """
    named = {f"row {row}": method for row, method in rows_of_table2.items()}
    rows = []
    for claim in claims:
        for task in [task for task in claim["tasks"] if task in comparisons]:
            comparison = comparisons[task]
            wide = comparison.wide(MEASURES.get(claim["measure"], claim["measure"]))
            a, b = (named.get(claim[side], claim[side]) for side in "ab")
            rivals = [b]
            if b == "best":
                rivals = _rivals(a, wide, methods)
                b = wide[rivals].mean().idxmax() if rivals else None
            row = {"claim": claim["claim"], "task": task, "measure": claim["measure"]}
            row |= {"a": a, "b": b, "expect": claim["expect"]}
            if a in wide and b in wide:
                values = wide[a] - wide[b]
                known = values[np.isfinite(values)]
                low, high = comparison.interval(known, comparisons=len(rivals))
                row |= {"difference": known.mean(), "low": low, "high": high}
                row["without"] = len(values) - len(known)
                row["verdict"] = verdict(claim["expect"], low, high, claim.get("margin", 0.0))
            else:
                row["verdict"] = ABSENT
            rows.append(row)
    return pd.DataFrame(rows)


def _rivals(name: str, wide: pd.DataFrame, methods: Sequence[dict]) -> list[str]:
    """Return the methods of the paper that are not of the same family as one method."""
    family = next((method["family"] for method in methods if method["id"] == name), "")
    return [
        method["id"]
        for method in methods
        if method["paper_row"] and method["id"] in wide and method["id"] != name
        if not family or method["family"] != family
    ]


def verdict(expect: str, low: float, high: float, margin: float) -> str:
    """Judge an interval by where the claim has it; one that is not known decides nothing."""
    least, most = {
        "more": (margin, np.inf),
        "less": (-np.inf, -margin),
        "not-less": (-margin, np.inf),
        "alike": (-margin, margin),
    }[expect]
    if least < low and high < most:
        return SUPPORTED
    if low == high == 0:
        return EQUAL
    return CONTRADICTED if low > most or high < least else OPEN


def formatted(table: pd.DataFrame, labels: Mapping[str, str]) -> pd.DataFrame:
    """Return the table as text: the paper says, this run says."""
    rows = []
    for _, row in table.iterrows():
        text = MISSING
        if row["verdict"] != ABSENT:
            difference = with_limits(row["difference"], row["low"], row["high"], "+.1f")
            a, b = labels[row["a"]], labels[row["b"]]
            text = f"{a} against {b}: {difference} {UNITS[row['measure']]}"
            if row["without"]:
                text += f"; unknown in {row['without']:.0f} pair(s)"
        rows.append(
            {
                "The paper says": row["claim"],
                "Pairs": row["task"],
                "This run says": row["verdict"],
                "Difference [95 %]": text,
            }
        )
    return pd.DataFrame(rows)
