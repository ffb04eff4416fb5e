"""What a run will cost: jobs, core-hours, GPU-hours and disk, before anyone spends them."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import pandas as pd

from workflow.referee.render import MISSING, number

# Assumption: a GPU runs networks as fast as so many cores. Measure yours on a first, small run.
GPU_CORES = 30
FIELD_BYTES, IMAGE_BYTES, LABEL_BYTES = 12, 4, 1  # of a voxel
COLUMNS = ["what", "count", "jobs", "core_hours", "gpu_hours", "temporary_gb", "changed"]


class Item(NamedTuple):
    """Something that a run does many times.

    what : its label.
    kind : what is counted: directed pairs, or pairs that are trained on at full resolution.
    count : how many of them.
    jobs : in how many jobs.
    cost : core-seconds of one per million voxels; None: unknown.
    gpu : whether it can run on a GPU.
    field : whether each leaves a displacement field until it is scored.
    changed : settings that differ from those that the cost was measured with.
    """

    what: str
    kind: str
    count: int
    jobs: int
    cost: float | None
    gpu: bool
    field: bool
    changed: str


def estimate(items: Sequence[Item], size: Sequence[int], cores: int) -> pd.DataFrame:
    """Return a row for each item: its core-hours, GPU-hours and GB of temporary files.

    `size` is that of the working grid. Displacement fields are deleted when they are scored, which
    comes before further registrations: at most two jobs a core have theirs on the disk.
    """
    megavoxels = math.prod(size) / 1e6
    rows = []
    for item in items:
        hours = math.nan if item.cost is None else item.count * item.cost * megavoxels / 3600
        waiting = min(item.jobs, 2 * cores) / max(item.jobs, 1) * item.count if item.field else 0
        rows.append(
            {
                "what": item.what,
                "count": f"{item.count:,} {item.kind}",
                "jobs": item.jobs,
                "core_hours": hours,
                "gpu_hours": hours / GPU_CORES if item.gpu else math.nan,
                "temporary_gb": waiting * FIELD_BYTES * megavoxels / 1e3,
                "changed": item.changed,
            }
        )
    return pd.DataFrame(rows, columns=COLUMNS)


def formatted(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table as text."""
    marked = table["what"] + table["changed"].map(lambda changed: " *" if changed else "")
    hours = {
        title: [number(value, 1 if pd.isna(value) or value >= 1 else 3) for value in table[name]]
        for name, title in (("core_hours", "Core-hours"), ("gpu_hours", "or GPU-hours"))
    }
    text = pd.DataFrame({"": marked, "Count": table["count"], "Jobs": table["jobs"].map(str)})
    disk = table["temporary_gb"].map(lambda gb: number(gb, 2) if gb else MISSING)
    return text.assign(**hours, **{"Temporary disk (GB)": disk})


def notes(
    table: pd.DataFrame, scans: Mapping[str, int], size: Sequence[int], cores: int
) -> list[str]:
    """Return the lines under the table; `scans` counts `images` and `labels` that are kept."""
    voxels = math.prod(size)
    kept = voxels * (scans["images"] * IMAGE_BYTES + scans["labels"] * LABEL_BYTES) / 1e9
    on_gpu = table["gpu_hours"].notna()
    others = sum(scans.values()) + table.loc[table["temporary_gb"] > 0, "jobs"].sum()
    lines = [
        f"Jobs: {table['jobs'].sum():,}, and {others:,} to preprocess scans and to score.",
        f"Time: {table['core_hours'].sum():,.1f} core-hours; or, with a GPU, "
        f"{table.loc[~on_gpu, 'core_hours'].sum():,.1f} core-hours and "
        f"{table['gpu_hours'].sum():,.1f} GPU-hours.",
        f"Disk: {kept:.2f} GB of preprocessed scans, and up to {table['temporary_gb'].max():.2f} "
        f"GB of displacement fields at a time with {cores} cores; keep_fields keeps them all.",
        "Estimated from the core-seconds per voxel in the methods' descriptions, which are for "
        "their own settings, scaled by iterations where these say so; a slower processor takes "
        f"several times as much. That a GPU is worth {GPU_CORES} cores is assumed, not measured.",
    ]
    changed = [
        f"{what}: {changed}"
        for what, changed in zip(table["what"], table["changed"], strict=True)
        if changed
    ]
    unknown = table[table["core_hours"].isna()]["what"].tolist()
    lines += [f"\\* other settings here: {'; '.join(changed)}."] if changed else []
    lines += [f"Unknown cost: {', '.join(unknown)}."] if unknown else []
    return lines
