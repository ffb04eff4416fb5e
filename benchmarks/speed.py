"""Time AVSM: registration and training steps of each preset, and their memory.

    python -m benchmarks.speed                                  # the processor, 40x96x96
    python -m benchmarks.speed --shape 80 192 192
    python -m benchmarks.speed --device cuda --shape 80 192 192

Images are random. Registration takes 7 affine and 3 vSVF steps. A training step is one batch of a
phase of the preset's recipe: images drawn, both directions, forward, backward and Adam. On the
processor each row is measured in a process of its own, whose peak memory is all that it took.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch

from avsm.data import ImageStore, ScanSource, Source
from avsm.device import device_name, find_device, peak_memory_mb
from avsm.manifest import Scan
from avsm.model import AVSM
from avsm.pairs import PairSampler, keyed_generator
from avsm.settings import PRESETS, Recipe, recipe_preset
from avsm.train import affine_stage, momentum_stage, new_model
from benchmarks.solvers import seconds

STAGES = {"affine": "stage 1", "momentum": "stage 2"}


def matmul_gflops(device: torch.device, size: int = 2048) -> float:
    """Give the rate of a float32 matrix product, for comparing machines."""
    a = torch.rand(size, size, device=device)
    return 2 * size**3 / seconds(lambda: a @ a, 3) / 1e9


def wait(device: torch.device) -> None:
    """Wait for what a GPU has been given to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def rows_of(recipe: Recipe) -> dict[str, tuple[str, int] | None]:
    """Give what is timed by name: a stage and one of its phases, or None for registration."""
    rows: dict[str, tuple[str, int] | None] = {"registration": None}
    for stage, title in STAGES.items():
        for index, phase in enumerate(getattr(recipe, stage).phases):
            size = "" if phase.scale == 1 else f", images at {phase.scale:g}"
            name = f"{title}: {phase.pairs} pair(s), {phase.steps} step(s){size}"
            rows[name] = (stage, index)
    return rows


def random_source(recipe: Recipe, shape: tuple[int, int, int], folder: Path) -> ScanSource:
    """Make four random images to train on."""
    rng = np.random.default_rng(0)
    scans = []
    for number in range(4):
        image = sitk.GetImageFromArray(rng.random(shape, dtype=np.float32))
        image.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))  # RAS+
        path = folder / f"{number}.nii"
        sitk.WriteImage(image, str(path))
        scans.append(Scan(str(number), path, None, "train"))
    sampler = PairSampler(scans, recipe.task)
    return ScanSource(ImageStore(scans, folder), sampler, recipe.augmentation)


def training_step(
    recipe: Recipe, model: AVSM, source: Source, stage: str, index: int, device: torch.device
) -> Callable[[], None]:
    """Make a step of a phase of a stage, drawing included."""
    net = model.affine_net if stage == "affine" else model.momentum_net
    losses_of = affine_stage if stage == "affine" else momentum_stage
    model.requires_grad_(False)
    net.requires_grad_(True)
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-6)
    phase = getattr(recipe, stage).phases[index]

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        generator = keyed_generator(0)
        pairs = source.pairs(source.draw(phase, 0, generator), device)
        losses_of(model, pairs, recipe, phase, 0, generator)["total"].backward()
        optimiser.step()
        wait(device)

    return step


def registration(
    model: AVSM, shape: tuple[int, int, int], device: torch.device
) -> Callable[[], None]:
    """Make a registration of two images."""
    fixed, moving = torch.rand(2, 1, 1, *shape, device=device)

    def register() -> None:
        with torch.inference_mode():
            model(fixed, moving, affine_steps=7, steps=3)
        wait(device)

    return register


def measure(preset: str, name: str, arguments: argparse.Namespace) -> dict[str, float]:
    """Measure one row in this process."""
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    recipe = recipe_preset(preset).change({"model.precision": arguments.precision})
    row, shape = rows_of(recipe)[name], tuple(arguments.shape)
    device = find_device(arguments.device)
    model = new_model(recipe).to(device, memory_format=torch.channels_last_3d)
    torch.nn.init.normal_(model.momentum_net.last[-1].weight, std=0.01)
    with tempfile.TemporaryDirectory() as folder:
        if row is None:
            task = registration(model, shape, device)
        else:
            source = random_source(recipe, shape, Path(folder))
            task = training_step(recipe, model, source, *row, device)
        return {"seconds": seconds(task, arguments.repeats), "mb": peak_memory_mb(device)}


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--presets", nargs="+", default=["small", "paper"], choices=sorted(PRESETS))
    parser.add_argument("--shape", type=int, nargs=3, default=(40, 96, 96), metavar="N")
    parser.add_argument("--device", default="cpu", help="auto, cpu, cuda or mps")
    parser.add_argument("--precision", default="auto", help="auto, float32 or bfloat16")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--row", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.row:
        print(json.dumps(measure(*arguments.row, arguments)))
        return
    torch.set_num_threads(arguments.threads)
    size = "x".join(map(str, arguments.shape))
    device = find_device(arguments.device)
    print(
        f"{size}, {device_name(device) or device.type}, {arguments.threads} threads, "
        f"{matmul_gflops(device):.0f} GFLOPS in float32\n"
    )
    print("| preset | what | seconds | peak GB |\n|---|---|--:|--:|", flush=True)
    for preset in arguments.presets:
        for name in rows_of(recipe_preset(preset)):
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats()
                found = measure(preset, name, arguments)
            else:
                command = [sys.executable, "-m", "benchmarks.speed", *sys.argv[1:]]
                done = subprocess.run(
                    [*command, "--row", preset, name], check=True, capture_output=True, text=True
                )
                found = json.loads(done.stdout)
            print(
                f"| {preset} | {name} | {found['seconds']:.2f} | {found['mb'] / 1024:.1f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
