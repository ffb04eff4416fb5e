"""Copy the tables and figures of a finished run to `results/reference/`, and show it in documents.

    python -m workflow.referee.publish <run>

Of the run named `phantom`, README.md gets a short Table 1 and models/README.md the Dice, between
markers; results/reference/README.md gets the Dice of all published runs. What sentences say of the
run is checked by tests/unit/test_documents.py.
"""

import argparse
import gzip
import shutil
from pathlib import Path

import pandas as pd
from PIL import Image

from avsm.errors import UserError
from workflow.config import ROOT, TASKS
from workflow.referee.render import MISSING, markdown
from workflow.referee.table1 import short
from workflow.referee.tidy import read_json

SMALL = (
    "tables/*.csv", "tables/*.md", "figures/*.png", "figures/*.csv", "figures/examples/*.csv",
    "networks/*/*/history.csv", "networks/*/*/training.json", "manifest.json", "cohort.json",
)  # fmt: skip
# Slices of a cohort's images may be shown only if they are the phantom's: others have licences.
PICTURES = ("figures/examples/*.png",)
COLOURS = 128  # of a picture, which takes half the room that way
SHOWN = "phantom"


def publish(run: str, root: Path = ROOT) -> list[Path]:
    """Copy a run's small results and return the copies; volumes and logs stay behind.

    Pictures have fewer colours there, and `metrics.csv` is compressed.
    """
    source, target = root / "results" / run, root / "results" / "reference" / run
    if not (source / "tables" / "table1.md").is_file():
        raise UserError(f"{source}: no tables/table1.md; finish the run first")
    shutil.rmtree(target, ignore_errors=True)
    copies = []
    config = read_json(source / "manifest.json")["config"]
    shown = PICTURES if config["cohort"]["source"] == "phantom" else ()
    for pattern in (*SMALL, *shown):
        for path in sorted(source.glob(pattern)):
            copy = target / path.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix == ".png":
                picture = Image.open(path).convert("RGB")
                picture.quantize(COLOURS, dither=Image.Dither.NONE).save(copy, optimize=True)
            elif path.name == "metrics.csv":
                copy = copy.with_name("metrics.csv.gz")
                copy.write_bytes(gzip.compress(path.read_bytes(), mtime=0))
            else:
                shutil.copy(path, copy)
            copies.append(copy)
    return copies


def show(root: Path = ROOT) -> None:
    """Put parts of the reference run between the documents' markers, `<!-- name -->`."""
    tables = root / "results/reference" / SHOWN / "tables"
    for (document, name), part in shown_parts(tables).items():
        path, opening, closing = root / document, f"<!-- {name} -->", f"<!-- /{name} -->"
        before, rest = path.read_text(encoding="utf-8").split(opening)
        _, after = rest.split(closing)
        path.write_text(f"{before}{opening}\n{part}{closing}{after}", encoding="utf-8")


def all_cohorts(reference: Path) -> pd.DataFrame:
    """Return Dice (%) of every method in every published run, as text."""
    columns = {}
    for path in sorted(reference.glob("*/tables/table1.csv")):
        table = pd.read_csv(path).set_index("method")
        for task in (task for task in TASKS if f"{task} dice" in table):
            dice = table[f"{task} dice"].map("{:.1f}".format)
            columns[f"{path.parents[1].name}, {task}"] = dice
    methods = dict.fromkeys(name for dice in columns.values() for name in dice.index)
    wide = pd.DataFrame(columns).reindex(list(methods)).fillna(MISSING)
    return wide.rename_axis("Method").reset_index()


def shown_parts(tables: Path) -> dict[tuple[str, str], str]:
    """Return what documents show of a run's tables, by document and marker."""
    table = pd.read_csv(tables / "table1.csv")
    dice = {"Method": table["method"]}
    dice |= {task.capitalize(): table[f"{task} dice"].map("{:.1f}".format) for task in TASKS}
    return {
        ("README.md", "table"): markdown({"": short(table)}, []),
        ("models/README.md", "tested"): markdown({"": pd.DataFrame(dice)}, []),
        ("results/reference/README.md", "all"): markdown({"": all_cohorts(tables.parents[1])}, []),
    }


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", help="a folder of results/, e.g. phantom")
    run = parser.parse_args().run
    try:
        copies = publish(run)
    except UserError as error:
        parser.exit(1, f"{error}\n")
    for copy in copies:
        print(copy.relative_to(ROOT))
    if run == SHOWN:
        show()


if __name__ == "__main__":
    main()
