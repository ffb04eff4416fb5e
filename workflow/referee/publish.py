"""Copy the tables and figures of a finished run to `results/reference/`, and show it in README.

    python -m workflow.referee.publish <run>

The README gets the Table 1 of the run named `phantom`, between its two table markers.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

from workflow.config import ROOT
from workflow.errors import DataError

SMALL = (
    "tables/*.csv", "tables/*.md", "tables/*.tex", "figures/figure*", "figures/ranking*",
    "figures/examples/*.csv", "networks/*/*/history.csv",
    "networks/*/*/training.json", "manifest.json", "cohort.json",
)  # fmt: skip
# Slices of a cohort's images may be shown only if they are the phantom's: others have licences.
PICTURES = ("figures/checks/*", "figures/examples/*.png")
MARKERS = ("<!-- table -->", "<!-- /table -->")
SHOWN = "phantom"


def publish(run: str, root: Path = ROOT) -> list[Path]:
    """Copy a run's small results and return the copies; volumes and logs stay behind."""
    source, target = root / "results" / run, root / "results" / "reference" / run
    if not (source / "tables" / "table1.md").is_file():
        raise DataError(f"{source}: no tables/table1.md; finish the run first")
    shutil.rmtree(target, ignore_errors=True)
    copies = []
    config = json.loads((source / "manifest.json").read_text(encoding="utf-8"))["config"]
    shown = PICTURES if config["cohort"]["source"] == "phantom" else ()
    for pattern in (*SMALL, *shown):
        for path in sorted(source.glob(pattern)):
            copy = target / path.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copies.append(Path(shutil.copy(path, copy)))
    return copies


def show_in_readme(root: Path = ROOT) -> None:
    """Put the reference table between README's markers."""
    table = (root / "results/reference" / SHOWN / "tables/table1.md").read_text(encoding="utf-8")
    readme = root / "README.md"
    before, rest = readme.read_text(encoding="utf-8").split(MARKERS[0])
    _, after = rest.split(MARKERS[1])
    readme.write_text(f"{before}{MARKERS[0]}\n{table}{MARKERS[1]}{after}", encoding="utf-8")


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", help="a folder of results/, e.g. phantom")
    run = parser.parse_args().run
    for copy in publish(run):
        print(copy.relative_to(ROOT))
    if run == SHOWN:
        show_in_readme()


if __name__ == "__main__":
    main()
