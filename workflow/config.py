"""The configuration: checked as a whole before anything runs."""

from pathlib import Path
from typing import Any

from avsm.errors import raise_all
from workflow.schema import faults, load_schema

ROOT = Path(__file__).resolve().parent.parent
TASKS = ("longitudinal", "cross-subject")


def check_config(config: dict[str, Any]) -> None:
    """Raise one `UserError` that lists every fault of the configuration.

    Methods and their parameters are checked by `workflow.contract.descriptions`, which knows them.
    """
    found = faults(config, load_schema("config.schema.yaml"), "configuration")
    if not found:
        found = [f"configuration: {fault}" for fault in _contradictions(config)]
    raise_all("The configuration has faults:", found)


def _contradictions(config: dict[str, Any]) -> list[str]:
    """Return what no schema can see: keys that contradict one another."""
    messages = []
    cohort, low_high = config["cohort"], config["preprocessing"]["percentiles"]
    if cohort["source"] == "phantom" and cohort["path"]:
        messages.append(
            f"cohort.path: found '{cohort['path']}' with source phantom, which reads no file; "
            "set cohort.source to manifest or decathlon, or the path to null"
        )
    if cohort["source"] != "phantom" and not cohort["path"]:
        messages.append(f"cohort.path: found null, source {cohort['source']} needs a path")
    if low_high[0] >= low_high[1]:
        messages.append(f"preprocessing.percentiles: found {low_high}, expected the lower first")
    if config["split"]["test"] + config["split"]["validation"] > 1:
        messages.append("split: test and validation together exceed 1")
    margin, size = config["evaluation"]["symmetry_margin"], config["preprocessing"]["size"]
    if 2 * margin >= min(size):
        messages.append(
            f"evaluation.symmetry_margin: found {margin}, which leaves nothing of the shortest "
            f"axis of preprocessing.size {size}; expected less than {min(size) / 2:g}"
        )
    if cohort["source"] == "phantom" and config["phantom"]["training"]:
        messages += _people_contradictions(config)
    if config["run"] == "reference":
        messages.append("run: 'reference' is the folder of published results; take another name")
    reserved = {"mean", "all"} & {s["name"] for s in config["labels"]["structures"]}
    if reserved:
        messages.append(f"labels.structures: the name '{reserved.pop()}' is taken by the tables")
    labels = config["labels"]
    for key, field, listed in (
        ("labels.structures", "name", labels["structures"]),
        ("labels.structures", "value", labels["structures"]),
        ("labels.merge", "from", labels["merge"]),
        ("table2", "row", config["table2"]),
    ):
        entries = [entry[field] for entry in listed]
        if len(set(entries)) < len(entries):
            messages.append(f"{key}: the same {field} occurs twice in {entries}")
    return messages


def _people_contradictions(config: dict[str, Any]) -> list[str]:
    """Return what the people that networks are trained on contradict."""
    people, messages = config["phantom"]["training"], []
    if people["fresh"] > people["people"]:
        found = f"found {people['fresh']} fresh of {people['people']} people"
        messages.append(f"phantom.training: {found}")
    if people["seed"] == config["seed"]:
        messages.append(
            f"phantom.training.seed: found {people['seed']}, which is that of the cohort: the "
            "people to train on would be those to test on; expected another"
        )
    if set(config["training"]["couples"].values()) != {"all"}:
        messages.append(
            f"training.couples: found {config['training']['couples']}, but phantom.training draws "
            "pairs of people of its own; expected all, or phantom.training: null"
        )
    for key, made in (("spacing_mm", None), ("mirror_left", True)):
        if config["preprocessing"][key] != made:
            messages.append(
                f"preprocessing.{key}: found {config['preprocessing'][key]}, but phantom.training "
                f"makes images with {made}; set phantom.training to null"
            )
    return messages
