"""Scoring of a shard: from displacement fields and label maps to rows of the tidy table."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import SimpleITK as sitk

from avsm.images import read_field, read_image
from workflow.contract.shard import field_path
from workflow.geometry import index_map, index_to_physical
from workflow.referee import metrics
from workflow.referee.tidy import COLUMNS, MEAN, WHOLE

STRUCTURE_METRICS = ("dice", "hd95", "assd")
CONSISTENCY = ("symmetry", "inverse_error")
WHOLE_METRICS = (
    "folds", "folds_abs", "folds_diagonal", "nonpositive_percent", "sdlogj", "ndv_percent",
    *CONSISTENCY, "seconds",
)  # fmt: skip

Score = tuple[str, str, float]  # label, metric, value


@dataclass(frozen=True)
class Rules:
    """By what all methods are judged."""

    structures: Sequence[dict]  # {name, value} of each scored label
    margin: int  # of the measures of symmetry, in voxels
    # From a scan's name and grid to the map from its voxel indices to anatomical points, if known.
    to_template: Callable[[str, sitk.Image], metrics.ToTemplate] | None = None


def evaluate_shard(
    record: dict, fields: Path, label_path: Callable[[str], str], rules: Rules
) -> pd.DataFrame:
    """Return the scores of all directed pairs of a shard, tidy.

    A failed registration has the same rows as any other, with empty values and its reason. `record`
    is the shard's `outcomes.json`, both directions of each couple; `label_path` gives the path of a
    scan's label map on the working grid.
    """
    outcomes = {(entry["fixed"], entry["moving"]): entry for entry in record["registrations"]}
    rows = []
    for couple in dict.fromkeys(frozenset(pair) for pair in outcomes):
        labels = {scan: read_image(label_path(scan)) for scan in couple}
        directed = {pair: entry for pair, entry in outcomes.items() if frozenset(pair) == couple}
        maps = {
            pair: index_map(read_field(field_path(fields, *pair)), labels[pair[1]])
            for pair, entry in directed.items()
            if entry["status"] == "ok"
        }
        for pair, entry in directed.items():
            if pair in maps:
                scores = _scores(pair, labels, maps, rules)
                scores.append((WHOLE, "seconds", entry["seconds"]))
            else:
                scores = _failed_scores(rules)
            head = (record["method"], entry["task"], *pair)
            rows += [(*head, *score, entry["reason"]) for score in scores]
    return pd.DataFrame(rows, columns=COLUMNS)


def _scores(
    pair: tuple[str, str],
    labels: dict[str, sitk.Image],
    maps: dict[tuple[str, str], np.ndarray],
    rules: Rules,
) -> list[Score]:
    """Score one successful registration; `maps` holds the reverse one too unless it failed."""
    fixed, moving = (labels[scan] for scan in pair)
    mapping, backward = maps[pair], maps.get(pair[::-1])
    scores = _structure_scores(fixed, moving, mapping, rules.structures)
    volumes = [abs(np.linalg.det(index_to_physical(grid)[0])) for grid in (fixed, moving)]
    whole = metrics.regularity(mapping, volumes[1] / volumes[0])
    whole["ndv_percent"] = metrics.folded_volume_percent(mapping)
    if backward is None:
        whole |= dict.fromkeys(CONSISTENCY, np.nan)
    else:
        whole |= metrics.inverse_consistency(mapping, backward, fixed.GetSpacing(), rules.margin)
    if rules.to_template:
        mask = np.isin(sitk.GetArrayViewFromImage(fixed), [s["value"] for s in rules.structures])
        to_template = (rules.to_template(scan, labels[scan]) for scan in pair)
        matrix = index_to_physical(moving)[0]
        whole["tre"] = metrics.target_error(mask, mapping, *to_template, matrix)
    return scores + [(WHOLE, metric, value) for metric, value in whole.items()]


def _structure_scores(
    fixed: sitk.Image, moving: sitk.Image, mapping: np.ndarray, structures: Sequence[dict]
) -> list[Score]:
    """Compare the fixed label map with the warped moving one, structure by structure."""
    truth = sitk.GetArrayViewFromImage(fixed)
    warped = metrics.warp_labels(sitk.GetArrayViewFromImage(moving), mapping)
    found = {}
    for structure in structures:
        a, b = truth == structure["value"], warped == structure["value"]
        distances = metrics.surface_measures(a, b, fixed.GetSpacing()[::-1])
        found[structure["name"]] = {"dice": metrics.dice(a, b)} | distances
    found[MEAN] = {
        metric: float(np.mean([values[metric] for values in found.values()]))
        for metric in STRUCTURE_METRICS
    }
    return [
        (name, metric, value) for name, values in found.items() for metric, value in values.items()
    ]


def _failed_scores(rules: Rules) -> list[Score]:
    """Return the rows of a failed registration: all there, all empty."""
    names = [*(structure["name"] for structure in rules.structures), MEAN]
    whole = (*WHOLE_METRICS, *(("tre",) if rules.to_template else ()))
    return [(name, metric, np.nan) for name in names for metric in STRUCTURE_METRICS] + [
        (WHOLE, metric, np.nan) for metric in whole
    ]
