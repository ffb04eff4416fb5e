"""What scoring a directed pair costs, on one core at the paper's grid (80x192x192), with the disk.

python -m benchmarks.harness
"""

from __future__ import annotations

import os

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"):
    os.environ[name] = "1"

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from avsm.images import write_image
from workflow.contract.shard import field_path
from workflow.geometry import vector_image
from workflow.provenance import processor
from workflow.referee.evaluate import Rules, evaluate_shard

SIZE = (80, 192, 192)
REPEATS = 3


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


def main() -> None:
    """Print the cost."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        scoring = seconds_to_score_a_pair(Path(folder))
    print(f"{processor()}")
    print(f"scoring one directed pair at 80x192x192, one core: {scoring:.2f} s")


if __name__ == "__main__":
    main()
