"""The networks that ship in `models/`: put there from a finished run, and what they fit.

    python -m workflow.models published

Weights are in half precision; `models.json` says what they were trained on, `SHA256SUMS` guards the
files (`sha256sum --check` reads it, and so does `avsm` when it loads one).
"""

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from avsm.errors import UserError
from avsm.files import file_digest, write_text
from workflow.config import ROOT

MODELS = "models"  # folder of the networks that were trained long
RECORD = "models.json"


def collect(run: str, root: Path = ROOT) -> list[Path]:
    """Copy the networks of a finished run to `models/` in half precision; return their paths."""
    from avsm.model import SUMS, load_checkpoint, save_checkpoint  # not where plans are made

    source, target = root / "results" / run, root / MODELS
    trained = sorted(source.glob("networks/*/*/model.pt"))
    if not trained or not (source / "manifest.json").is_file():
        raise UserError(f"{source}: no networks or no manifest.json; finish the run first")
    manifest = json.loads((source / "manifest.json").read_text(encoding="utf-8"))
    records = {
        path: json.loads((path.parent / "training.json").read_text(encoding="utf-8"))
        for path in trained
    }
    people = [record.get("phantoms") for record in records.values()]
    if not all(people) or len({path.parent.parent for path in trained}) < len(trained):
        raise UserError(
            f"{source}: expected one network for both tasks, each trained on phantom people "
            "(phantom.training), so that it is known who may be tested"
        )
    for old in target.glob("*.pt"):
        old.unlink()
    config, networks, written = manifest["config"], {}, []
    for path, training in records.items():
        name = path.parent.parent.name
        content = load_checkpoint(path)
        weights = content["weights"].items()
        content["weights"] = {k: w.half() if w.is_floating_point() else w for k, w in weights}
        written.append(target / f"{name}.pt")
        save_checkpoint(written[-1], content)
        networks[name] = training
    record = {
        "size": config["preprocessing"]["size"],
        "structures": [s["value"] for s in config["labels"]["structures"]],
        "seeds": sorted({config["seed"], *(own["seed"] for own in people)}),
        "networks": networks,
    }
    write_text(target / RECORD, json.dumps(record, indent=1) + "\n")
    sums = [f"{file_digest(p)}  {p.name}\n" for p in written]
    write_text(target / SUMS, "".join(sums))
    return written


def published(network: str) -> list[str]:
    """Return the path of a network that ships, if there is one."""
    path = Path(MODELS, f"{network}.pt")
    return [str(path)] if path.is_file() else []


def check_fit(config: dict[str, Any], networks: Iterable[str]) -> None:
    """Raise `UserError` if a run cannot go on from those of its networks that ship."""
    if not any(map(published, networks)):
        return
    path = Path(MODELS, RECORD)
    if not path.is_file():
        raise UserError(
            f"training.start: published: found no {path}, which says what the networks of models/ "
            "were trained on; set training.start to scratch"
        )
    record = json.loads(path.read_text(encoding="utf-8"))
    own = {
        "preprocessing.size": config["preprocessing"]["size"],
        "labels.structures (values)": [s["value"] for s in config["labels"]["structures"]],
    }
    theirs = dict(zip(own, (record["size"], record["structures"]), strict=True))
    faults = [f"{k} {own[k]}, trained on {theirs[k]}" for k in own if own[k] != theirs[k]]
    if config["cohort"]["source"] == "phantom" and config["seed"] in record["seeds"]:
        faults.append(f"seed {config['seed']}: they were trained on the people of this cohort")
    if faults:
        raise UserError(
            "training.start: published: the networks of models/ do not fit this run (found "
            f"{'; '.join(faults)}); set training.start to scratch"
        )


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", help="a folder of results/, e.g. published")
    try:
        for path in collect(parser.parse_args().run):
            print(path.relative_to(ROOT))
    except UserError as error:
        parser.exit(1, f"{error}\n")


if __name__ == "__main__":
    main()
