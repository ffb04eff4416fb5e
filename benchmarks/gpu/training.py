"""Train both networks on phantom people for a few minutes and say what it brought.

    python -m benchmarks.gpu.training --size 80 192 192 --seconds 200 --preset paper

Prints the seconds of a step of each phase and what 80,000 of them would take, how busy the GPU was,
and the Dice of people who were not trained on, before and after.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch

from avsm.data import Validation
from avsm.device import device_name, find_device, peak_memory_mb, precision_name
from avsm.files import write_rows
from avsm.images import canonical
from avsm.manifest import Scan
from avsm.maps import identity_map
from avsm.model import load_model
from avsm.settings import PRESETS, Recipe, recipe_preset
from avsm.train import STAGES, new_model, train
from benchmarks.solvers import seconds
from benchmarks.speed import training_step
from workflow.phantom.labels import phantom_label
from workflow.phantom.people import KneeSource, render, usual_appearance

SEEDS = {"train": 4711, "validation": 4712, "test": 4713}  # each another population
STRUCTURES = (2, 4)
EPOCHS = 4
PAPER_STEPS = 80_000  # about what the paper's networks took


def write_scans(source: KneeSource, folder: Path, split: str) -> list[Scan]:
    """Write image and label map of both visits of a source's people."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(source.seed)
    scans = []
    for number in range(source.people):
        maps = torch.from_numpy(np.load(source.folder / f"{number:06d}.npz")["fractions"])
        for visit, fractions in enumerate(maps):
            paths = [folder / f"{split}{number}_{visit}_{kind}.nii" for kind in ("image", "label")]
            label = canonical(phantom_label(number, visit, "right", source.size, source.seed))
            drawn = render(fractions[None], [usual_appearance(generator)], generator)[0]
            image = sitk.GetImageFromArray(drawn.numpy())
            image.CopyInformation(label)
            for one, path in zip((image, label), paths, strict=True):
                sitk.WriteImage(one, str(path))
            scans.append(Scan(f"{split}{number}", *paths, split, str(visit), "right"))
    return scans


def fitted(recipe: Recipe, source: KneeSource, budget: float) -> Recipe:
    """Print the seconds of a step of each phase; fit the batches of both stages to a budget."""
    device, settings = find_device(), {}
    model = new_model(recipe).to(device, memory_format=torch.channels_last_3d)
    for stage in STAGES:
        begin, mean = 0.0, 0.0
        for index, phase in enumerate(getattr(recipe, stage).phases):
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats()
            took = seconds(training_step(recipe, model, source, stage, index, device), 3)
            mean, begin = mean + (phase.until - begin) * took, phase.until
            what = f"{phase.pairs} pair(s), {phase.steps} step(s), images at {phase.scale:g}"
            print(f"| {stage} | {what} | {took:.3f} | {peak_memory_mb(device) / 1024:.1f} |")
        hours = PAPER_STEPS * mean / 3600
        print(
            f"| {stage} | mean of its phases; {PAPER_STEPS:,} steps: {hours:.1f} h | {mean:.3f} | |"
        )
        batches = max(1, int(budget / len(STAGES) / mean / EPOCHS))
        settings |= {f"{stage}.epochs": EPOCHS, f"{stage}.batches": batches}
    return recipe.change(settings)


def watch_gpu(log: Path) -> subprocess.Popen | None:
    """Write how busy the GPU is, each second, until terminated; None without nvidia-smi."""
    if not shutil.which("nvidia-smi"):
        return None
    query = ["--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "--loop=1"]
    return subprocess.Popen(["nvidia-smi", *query], stdout=log.open("w"))


def main() -> None:
    """Make people, train, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, nargs=3, default=(80, 192, 192), metavar="N")
    parser.add_argument("--people", type=int, default=16, help="to train on")
    parser.add_argument("--tested", type=int, default=4, help="to test on, and to validate on")
    parser.add_argument("--seconds", type=float, default=200, help="of training, both networks")
    parser.add_argument("--preset", default="paper", choices=sorted(PRESETS))
    parser.add_argument("--out", type=Path, default=Path("results/gpu"))
    parser.add_argument("--only-people", action="store_true", help="make the people and end")
    arguments = parser.parse_args()

    counts = {"train": arguments.people, "validation": 2, "test": arguments.tested}
    sources = {
        split: KneeSource(
            tuple(arguments.size), "both", arguments.out / "people", os.cpu_count() or 1,
            seed=SEEDS[split], people=count,
        )
        for split, count in counts.items()
    }  # fmt: skip
    for source in sources.values():
        source.make_people()
    if arguments.only_people:
        return
    device, shape = find_device(), sources["train"].shape
    recipe = recipe_preset(arguments.preset, "both").change({"validation_pairs": 4})
    precision = precision_name(device, recipe.model.precision)
    grid = "x".join(map(str, shape))
    print(f"{device_name(device) or device.type}, {precision}, {grid}, preset {arguments.preset}\n")
    print("| network | step | seconds | peak GB |\n|---|---|--:|--:|")
    recipe = fitted(recipe, sources["train"], arguments.seconds)
    scans = {
        split: write_scans(sources[split], arguments.out / "scans", split)
        for split in ("validation", "test")
    }
    manifest = arguments.out / "manifest.csv"
    rows = [
        asdict(scan)
        | {"image": scan.image.resolve(), "label": scan.label.resolve(), "mirrored": ""}
        for scan in scans["validation"]
    ]
    write_rows(manifest, [*rows[0]], rows)
    log = arguments.out / "busy.log"
    watcher = watch_gpu(log)
    model = train(
        manifest, arguments.out / "networks", recipe, labels=STRUCTURES, resume=False,
        source=sources["train"],
    )  # fmt: skip
    if watcher:
        watcher.terminate()
        busy = [float(line) for line in log.read_text().split()]
        print(
            f"\nThe GPU was busy for {np.mean(busy):.0f} % of the training, and waited otherwise."
        )
    tested = [replace(scan, split="validation") for scan in scans["test"]]
    test = Validation(tested, recipe, sources["test"], STRUCTURES, device)
    network = load_model(model).model.to(device, memory_format=torch.channels_last_3d)
    before = test.score(lambda fixed, moving: identity_map(fixed.shape[2:], fixed))
    after = test.score(lambda fixed, moving: network(fixed, moving).map)
    print(
        f"\nDice of {len(test.pairs)} pairs of people who were not trained on: {before.dice:.3f} "
        f"before, {after.dice:.3f} after; folds {after.folds_percent:.4f} % of the voxels."
    )


if __name__ == "__main__":
    main()
