"""The tidy table of scores: its columns, and how it and other records are read."""

import json
import math
from pathlib import Path
from typing import Any

import pandas as pd

COLUMNS = ["method", "task", "fixed", "moving", "label", "metric", "value", "reason"]
SCANS = ["fixed", "moving"]
PAIR = ["method", "task", *SCANS]
MEAN = "mean"  # label of the mean over the structures
WHOLE = "all"  # label of what measures the whole map
BOUNDS = {"dice": (0.0, 100.0), "folds": (0.0, math.inf)}  # what means of `pair_values` can be


def read_metrics(*paths: str) -> pd.DataFrame:
    """Read scores: `value` is a number or NaN, `reason` empty for a success, all else text."""
    tables = (pd.read_csv(path, dtype=str, keep_default_na=False) for path in paths)
    table = pd.concat(tables, ignore_index=True)
    table["value"] = pd.to_numeric(table["value"].replace("", None))
    return table


def read_json(path: str | Path) -> Any:
    """Read a record, such as a shard's `outcomes.json`."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def pair_values(metrics: pd.DataFrame) -> pd.DataFrame:
    """Return one row a directed pair, one column a measure, and the reason of failed ones.

    Measures of structures are the mean over them; Dice is in %.
    """
    chosen = metrics[metrics["label"].isin([MEAN, WHOLE])]
    wide = chosen.pivot(index=[*PAIR, "reason"], columns="metric", values="value").reset_index()
    wide["dice"] *= 100
    return wide
