"""Scoring of a shard: from displacement fields and label maps to rows of the tidy table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import SimpleITK as sitk

from workflow.contract.shard import field_path
from workflow.geometry import index_map, index_to_physical
from workflow.images import read_image
from workflow.referee import metrics
from workflow.referee.tidy import COLUMNS, MEAN, WHOLE

WHOLE_METRICS = ("folds", "folds_abs", "folds_diagonal", "symmetry", "seconds")

Score = tuple[str, str, float]  # label, metric, value


def evaluate_shard(
    record: dict,
    fields: Path,
    label_path: Callable[[str], str],
    structures: Sequence[dict],
    margin: int,
) -> pd.DataFrame:
    """Return the scores of all directed pairs of a shard, tidy.

    A failed registration has the same rows as any other, with empty values and its reason.

    Parameters
    ----------
    record : the shard's `outcomes.json`, both directions of each couple.
    fields : folder of the displacement fields, see `field_path`.
    label_path : gives the path of a scan's label map on the working grid.
    structures : ``{name, value}`` of each scored label.
    margin : of the symmetry measure, in voxels.
    """
    outcomes = {(entry["fixed"], entry["moving"]): entry for entry in record["registrations"]}
    couples = dict.fromkeys(frozenset(pair) for pair in outcomes)
    rows = []
    for couple in couples:
        labels = {scan: read_image(label_path(scan)) for scan in couple}
        directed = {pair: entry for pair, entry in outcomes.items() if frozenset(pair) == couple}
        maps = {
            pair: index_map(read_image(field_path(fields, *pair)), labels[pair[1]])
            for pair, entry in directed.items()
            if entry["status"] == "ok"
        }
        for (fixed, moving), entry in directed.items():
            if entry["status"] == "ok":
                scores = _scores((fixed, moving), labels, maps, structures, margin)
                scores.append((WHOLE, "seconds", entry["seconds"]))
            else:
                scores = _failed_scores(structures)
            head = (record["method"], entry["task"], fixed, moving)
            rows += [(*head, *score, entry["reason"]) for score in scores]
    return pd.DataFrame(rows, columns=COLUMNS)


def _scores(
    pair: tuple[str, str],
    labels: dict[str, sitk.Image],
    maps: dict[tuple[str, str], np.ndarray],
    structures: Sequence[dict],
    margin: int,
) -> list[Score]:
    """Score one successful registration; `maps` holds the reverse one too unless it failed."""
    fixed, moving = (labels[scan] for scan in pair)
    mapping, backward = maps[pair], maps.get(pair[::-1])
    truth = sitk.GetArrayViewFromImage(fixed)
    warped = metrics.warp_labels(sitk.GetArrayViewFromImage(moving), mapping)
    overlaps = [metrics.dice(truth == s["value"], warped == s["value"]) for s in structures]
    scores: list[Score] = [
        (s["name"], "dice", overlap) for s, overlap in zip(structures, overlaps, strict=True)
    ]
    scores.append((MEAN, "dice", float(np.mean(overlaps))))
    volumes = [abs(np.linalg.det(index_to_physical(grid)[0])) for grid in (fixed, moving)]
    counts = metrics.folds(mapping, volumes[1] / volumes[0])
    scores += [(WHOLE, metric, value) for metric, value in counts.items()]
    value = np.nan if backward is None else metrics.symmetry(mapping, backward, margin)
    return [*scores, (WHOLE, "symmetry", value)]


def _failed_scores(structures: Sequence[dict]) -> list[Score]:
    """Return the rows of a failed registration: all there, all empty."""
    names = [*(structure["name"] for structure in structures), MEAN]
    return [(name, "dice", np.nan) for name in names] + [
        (WHOLE, metric, np.nan) for metric in WHOLE_METRICS
    ]
