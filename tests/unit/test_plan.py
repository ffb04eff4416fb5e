"""The plan: core-hours, GPU-hours and disk of known numbers; what is unknown is said."""

import numpy as np
import pytest

from workflow.plan import GPU_CORES, Item, estimate, formatted, notes
from workflow.referee.render import markdown

SIZE = [100, 100, 200]  # two million voxels
ITEMS = [
    Item("Net", "steps", 3600, 1, 5.0, True, False, ""),
    Item("Slow", "directed pairs", 40, 10, 90.0, False, True, "iterations 5 (default 9)"),
    Item("Mine", "directed pairs", 40, 2, None, False, True, ""),
]


@pytest.fixture
def table():
    return estimate(ITEMS, SIZE, cores=2)


def test_numbers(table):
    net, slow, mine = (row for _, row in table.iterrows())
    assert (net["core_hours"], net["gpu_hours"]) == (10, pytest.approx(10 / GPU_CORES))
    assert slow["core_hours"] == 2 and np.isnan(slow["gpu_hours"])
    # Four of ten jobs have their fields on the disk: 16 of 2 million vectors of 12 bytes.
    assert slow["temporary_gb"] == pytest.approx(16 * 2 * 12 / 1e3)
    assert np.isnan(mine["core_hours"])
    assert mine["temporary_gb"] == pytest.approx(40 * 2 * 12 / 1e3)
    assert net["temporary_gb"] == 0


def test_text(table):
    text = markdown({"": formatted(table)}, notes(table, {"images": 6, "labels": 5}, SIZE, 2))
    assert "| Slow * | 40 directed pairs | 10 | 2.0 | -- | 0.38 |" in text
    assert "| Mine | 40 directed pairs | 2 | -- | -- | 0.96 |" in text
    assert "Jobs: 13, and 23 to preprocess scans and to score." in text
    assert "Time: 12.0 core-hours; or, with a GPU, 2.0 core-hours and 0.3 GPU-hours." in text
    assert "Disk: 0.06 GB of preprocessed scans, and up to 0.96 GB" in text
    assert "other settings here: Slow: iterations 5 (default 9)." in text
    assert "Unknown cost: Mine." in text
