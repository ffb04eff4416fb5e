"""Time AVSM on the processor: registration and training steps, with memory and matmul rate.

Random images; registration takes 7 affine and 3 vSVF steps, a step of stage 1 three affine steps
and one of stage 2 two vSVF steps behind seven fixed affine ones, both directions of one pair.

Run ``python -m benchmarks.speed`` from the root of the repository. Peak memory is the process's, so
give one preset and one shape at a time where it matters.
"""

from __future__ import annotations

import argparse
import resource
import sys
from collections.abc import Callable

import torch

from avsm.config import PRESETS, AVSMConfig
from avsm.losses import affine_losses, both_directions, step_losses, sum_losses
from avsm.model import AVSM
from avsm.similarity import mk_lncc_loss
from benchmarks.solvers import seconds


def matmul_gflops(size: int = 2048) -> float:
    """Give the rate of a float32 matrix product, for comparing machines."""
    a = torch.rand(size, size)
    return 2 * size**3 / seconds(lambda: a @ a, 3) / 1e9


def peak_memory_gb() -> float:
    """Give the peak resident memory of this process."""
    unit = 1 if sys.platform == "darwin" else 1024  # bytes or KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def tasks(model: AVSM, shape: tuple[int, int, int], half: bool) -> dict[str, Callable[[], None]]:
    """Give what is timed, by name."""
    fixed, moving = torch.rand(2, 1, 1, *shape)
    both = both_directions(fixed, moving)

    def register() -> None:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=half):
            model(fixed, moving, affine_steps=7, steps=3)

    def stage1() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            result = model(*both, affine_steps=3, steps=0, train_affine=True)
        similarity = mk_lncc_loss(result.warped, both[0])
        affine_losses(similarity, result.affines[-1], lambda_ar=1).total.backward()

    def stage2() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            result = model(*both, affine_steps=7, steps=2)
        steps = [
            step_losses(mk_lncc_loss(s.warped, both[0]), s.low_map, s.momentum, s.velocity)
            for s in result.steps
        ]
        sum_losses(steps).total.backward()

    return {"registration": register, "stage-1 step": stage1, "stage-2 step": stage2}


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--presets", nargs="+", default=["small", "paper"], choices=sorted(PRESETS))
    parser.add_argument("--shape", type=int, nargs=3, default=(40, 96, 96), metavar="N")
    parser.add_argument("--float32", action="store_true", help="no bfloat16 autocast")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    precision = "float32" if arguments.float32 else "bfloat16"
    size = "x".join(map(str, arguments.shape))
    print(f"{size}, {precision}, {arguments.threads} threads, {matmul_gflops():.0f} GFLOPS")
    print("| preset | task | seconds | peak GB |\n|---|---|--:|--:|")
    for preset in arguments.presets:
        model = AVSM(AVSMConfig.preset(preset)).to(memory_format=torch.channels_last_3d)
        torch.nn.init.normal_(model.momentum_net.last[-1].weight, std=0.01)
        for name, task in tasks(model, arguments.shape, not arguments.float32).items():
            duration = seconds(task, arguments.repeats)
            print(f"| {preset} | {name} | {duration:.2f} | {peak_memory_gb():.1f} |")


if __name__ == "__main__":
    main()
