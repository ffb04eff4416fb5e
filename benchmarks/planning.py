"""What planning the paper's experiment costs: `config/oai.yaml` on a stand-in for OAI.

    python -m benchmarks.planning

The stand-in has the paper's 22,950 images of 2,444 patients, 88 of them labelled, as empty files.
What is timed is Snakemake's dry run of everything; then the plan is printed (`snakemake plan`).
"""

from __future__ import annotations

import argparse
import csv
import itertools
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from workflow.config import ROOT
from workflow.provenance import processor

PATIENTS, TESTED, IMAGES = 2444, 88, 22950
VISITS = ("00m", "12m", "24m", "36m", "48m", "72m")


def rows() -> Iterator[dict[str, str]]:
    """Yield the manifest: two labelled scans of one knee to test on, both knees of all others."""
    knees = [*itertools.product(("left", "right"), VISITS)]
    left = IMAGES
    for patient in range(PATIENTS):
        tested = patient < TESTED
        validated = not tested and patient % 10 < 3
        number = 2 if tested else left // (PATIENTS - patient)  # as even as it goes
        labelled = tested or (validated and patient < 200)
        left -= number
        for side, visit in knees[:number]:
            yield {
                "subject": str(9000000 + patient),
                "visit": visit,
                "side": side,
                "split": "test" if tested else "validation" if validated else "train",
                "image": f"{patient}_{side}_{visit}.nii",
                "label": f"{patient}_{side}_{visit}_label.nii" if labelled else "",
            }


def main() -> None:
    """Print seconds, memory, and the plan."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for row in rows():
            for file in filter(None, (row["image"], row["label"])):
                (folder / file).touch()
        with (folder / "oai.csv").open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, ["subject", "visit", "side", "split", "image", "label"])
            writer.writeheader()
            writer.writerows(rows())
        change = f"run: planning\ncohort: {{path: {folder / 'oai.csv'}}}\n"
        (folder / "change.yaml").write_text(change, encoding="utf-8")
        command = [sys.executable, "-m", "snakemake", "--cores", str(os.cpu_count())]
        files = ["--configfile", "config/oai.yaml", str(folder / "change.yaml")]
        start = time.perf_counter()
        dry = [*command, "--dry-run", "--quiet", "rules", *files]
        subprocess.run(dry, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
        print(f"{processor()}")
        print(f"planning {IMAGES:,} images, all of config/oai.yaml: {seconds:.1f} s, {peak:.2f} GB")
        subprocess.run([*command, "plan", *files], cwd=ROOT, check=True)
    shutil.rmtree(ROOT / "results/planning")


if __name__ == "__main__":
    main()
