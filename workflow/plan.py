"""What a run will cost: jobs, core-hours, GPU-hours and disk, before anyone spends them."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import pandas as pd

from workflow.referee.render import MISSING, number

# Assumption: a GPU runs networks as fast as so many cores. Measure yours on a first, small run.
GPU_CORES = 30
FIELD_BYTES, IMAGE_BYTES, LABEL_BYTES = 12, 4, 1  # of a voxel


class Item(NamedTuple):
    """Something that a run does many times."""

    what: str  # its label
    kind: str  # what is counted: directed pairs, or pairs that are trained on at full resolution
    count: int
    jobs: int
    cost: float | None  # core-seconds of one per million voxels; None: unknown
    gpu: bool  # whether it can run on a GPU
    field: bool  # whether each leaves a displacement field until it is scored
    changed: str  # settings that differ from those that the cost was measured with


def estimate(items: Sequence[Item], size: Sequence[int], cores: int) -> pd.DataFrame:
    """Return the items with their core-hours, GPU-hours and GB of temporary files.

    `size` is that of the working grid. Displacement fields are deleted when they are scored, which
    comes before further registrations: at most two jobs a core have theirs on the disk.
    """
    megavoxels = math.prod(size) / 1e6
    table = pd.DataFrame(items, columns=Item._fields)
    hours = table["count"] * table["cost"].astype(float) * megavoxels / 3600
    waiting = table["jobs"].clip(upper=2 * cores) / table["jobs"] * table["count"]
    return table.assign(
        core_hours=hours,
        gpu_hours=hours.where(table["gpu"]) / GPU_CORES,
        temporary_gb=waiting.where(table["field"], 0) * FIELD_BYTES * megavoxels / 1e3,
    )


def formatted(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table as text."""
    marked = table["what"] + table["changed"].map(lambda changed: " *" if changed else "")
    hours = {
        title: [number(value, 1 if pd.isna(value) or value >= 1 else 3) for value in table[name]]
        for name, title in (("core_hours", "Core-hours"), ("gpu_hours", "or GPU-hours"))
    }
    counts = table["count"].map("{:,} ".format) + table["kind"]
    text = pd.DataFrame({"": marked, "Count": counts, "Jobs": table["jobs"].map(str)})
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
    unusual = table[table["changed"] != ""]
    changed = unusual["what"] + ": " + unusual["changed"]
    unknown = table.loc[table["cost"].isna(), "what"]
    lines += [] if changed.empty else [f"\\* other settings here: {'; '.join(changed)}."]
    lines += [] if unknown.empty else [f"Unknown cost: {', '.join(unknown)}."]
    return lines
