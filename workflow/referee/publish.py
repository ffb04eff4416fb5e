"""Copy the tables and figures of a finished run to `results/reference/`, and show it in documents.

    python -m workflow.referee.publish <run>

Of the run named `phantom`, README.md gets Table 1 and the fairness card, and models/README.md the
Dice, between markers. What sentences say of it is checked by tests/unit/test_documents.py.
"""

import argparse
import shutil
from pathlib import Path

import pandas as pd

from avsm.errors import UserError
from workflow.config import ROOT, TASKS
from workflow.referee.render import markdown
from workflow.referee.tidy import read_json

SMALL = (
    "tables/*.csv", "tables/*.md", "tables/*.tex", "figures/figure*", "figures/ranking*",
    "figures/examples/*.csv", "networks/*/*/history.csv",
    "networks/*/*/training.json", "manifest.json", "cohort.json",
)  # fmt: skip
# Slices of a cohort's images may be shown only if they are the phantom's: others have licences.
PICTURES = ("figures/checks/*", "figures/examples/*.png", "figures/examples/*.pdf")
SHOWN = "phantom"
CARD_COLUMNS = [
    "Method or network", "Labels it sees", "Settings from", "Tried to find them", "Changed here",
    "Time on", "Training",
]  # fmt: skip


def publish(run: str, root: Path = ROOT) -> list[Path]:
    """Copy a run's small results and return the copies; volumes and logs stay behind."""
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
            copies.append(Path(shutil.copy(path, copy)))
    return copies


def show(root: Path = ROOT) -> None:
    """Put parts of the reference run between the documents' markers, `<!-- name -->`."""
    tables = root / "results/reference" / SHOWN / "tables"
    for (document, name), part in shown_parts(tables).items():
        path, opening, closing = root / document, f"<!-- {name} -->", f"<!-- /{name} -->"
        before, rest = path.read_text(encoding="utf-8").split(opening)
        _, after = rest.split(closing)
        path.write_text(f"{before}{opening}\n{part}{closing}{after}", encoding="utf-8")


def shown_parts(tables: Path) -> dict[tuple[str, str], str]:
    """Return what documents show of a run's tables, by document and marker."""
    table = pd.read_csv(tables / "table1.csv")
    dice = {"Method": table["method"]}
    dice |= {task.capitalize(): table[f"{task} dice"].map("{:.1f}".format) for task in TASKS}
    return {
        ("README.md", "table"): (tables / "table1.md").read_text(encoding="utf-8"),
        ("README.md", "card"): short_card(tables),
        ("models/README.md", "tested"): markdown({"": pd.DataFrame(dice)}, []),
    }


def short_card(tables: Path) -> str:
    """Return the fairness card of Table 1's methods and their networks, and its notes."""
    card = pd.read_csv(tables / "fairness.csv", dtype=str, keep_default_na=False)
    names = card["Method or network"]
    methods = names.isin(pd.read_csv(tables / "table1.csv")["method"])
    needed = {name for text in card.loc[methods, "Network it needs"] for name in text.split(", ")}
    lines = (tables / "fairness.md").read_text(encoding="utf-8").splitlines()
    notes = [line.removeprefix("- ") for line in lines if line.startswith("- ")]
    return markdown({"": card.loc[methods | names.isin(needed), CARD_COLUMNS]}, notes)


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
