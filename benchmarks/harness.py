"""What the harness itself costs: scoring one directed pair, and planning the paper's pair list.

    python -m benchmarks.harness

Scoring runs on one core at the paper's grid (80x192x192), disk included. Planning is Snakemake's
parse and DAG of 88 longitudinal and 150 cross-subject couples with all methods of config.yaml.
"""

from __future__ import annotations

import os

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"):
    os.environ[name] = "1"

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from workflow.config import ROOT
from workflow.contract.shard import field_path
from workflow.geometry import vector_image
from workflow.images import write_image
from workflow.provenance import processor
from workflow.referee.evaluate import Rules, evaluate_shard

SIZE = (80, 192, 192)
REPEATS = 3
PAPER_PAIRS = """
run: plan
phantom: {subjects: 88}
split: {test: 1.0, validation: 0.0}
pairs: {longitudinal: 88, cross-subject: 150}
"""


def seconds_to_score_a_pair(folder: Path) -> float:
    """Return the least seconds for one directed pair of smooth random maps."""
    rng = np.random.default_rng(0)
    grid = sitk.Image(SIZE, sitk.sitkUInt8)
    grid.SetSpacing((1.4, 0.73, 0.73))
    for scan in "ab":
        coarse = sitk.GetImageFromArray(rng.integers(0, 7, (12, 12, 5)).astype(np.uint8))
        coarse.SetSpacing([1.4 * 16, 0.73 * 16, 0.73 * 16])
        label = sitk.Resample(coarse, grid, sitk.Transform(), sitk.sitkNearestNeighbor)
        write_image(label, folder / f"{scan}.nii")
    record = {"method": "random", "registrations": []}
    for fixed, moving in ("ab", "ba"):
        small = rng.normal(0, 3, (3, 8, 8, 4)).astype(np.float32)
        zoomed = [np.repeat(np.repeat(np.repeat(c, 24, 0), 24, 1), 20, 2) for c in small]
        field = sitk.SmoothingRecursiveGaussian(vector_image(np.stack(zoomed), grid), 5.0)
        write_image(sitk.Cast(field, sitk.sitkVectorFloat32), field_path(folder, fixed, moving))
        record["registrations"].append(
            {"task": "cross-subject", "fixed": fixed, "moving": moving, "status": "ok",
             "reason": "", "seconds": 0.0, "device": ""}
        )  # fmt: skip
    structures = [{"name": "femoral", "value": 2}, {"name": "tibial", "value": 4}]
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        rules = Rules(structures, margin=10)
        evaluate_shard(record, folder, lambda scan: str(folder / f"{scan}.nii"), rules)
        times.append((time.perf_counter() - start) / 2)
    return min(times)


def seconds_to_plan() -> float:
    """Return the seconds of a dry run of the paper's test pairs with all methods."""
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as config:
        config.write(PAPER_PAIRS)
        config.flush()
        command = [sys.executable, "-m", "snakemake", "-n", "--quiet", "rules"]
        start = time.perf_counter()
        subprocess.run(
            [*command, "--configfile", config.name], cwd=ROOT, check=True, stdout=subprocess.DEVNULL
        )
        return time.perf_counter() - start


def main() -> None:
    """Print both costs."""
    with tempfile.TemporaryDirectory() as folder:
        scoring = seconds_to_score_a_pair(Path(folder))
    print(f"{processor()}")
    print(f"scoring one directed pair at 80x192x192, one core: {scoring:.2f} s")
    print(f"planning 88 + 150 couples, all methods: {seconds_to_plan():.1f} s")


if __name__ == "__main__":
    main()
