"""Test pairs: couples of scans, each registered in both directions."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from avsm.errors import UserError, nearest, raise_all
from avsm.files import read_table
from workflow.config import TASKS
from workflow.data.scan import Scan

Couple = tuple[str, str, str]  # task, fixed, moving


def read_pair_list(path: str) -> dict[int, Couple]:
    """Read an explicit list by line: a CSV with the columns task, fixed, moving."""
    _, rows = read_table(path, "pairs.list", ("task", "fixed", "moving"))
    if not rows:
        raise UserError(f"{path}: no pairs; list some, or set pairs.list to null")
    return {line: (row["task"], row["fixed"], row["moving"]) for line, row in rows.items()}


def select_couples(
    scans: dict[str, Scan],
    config: dict[str, Any],
    listed: Mapping[int, Couple] | None = None,
) -> list[Couple]:
    """Return the test couples: those listed, or a seeded choice by `pairs` of the configuration.

    A couple is a longitudinal pair (same patient and side, other visit) or a cross-subject pair
    (other patient, same side once left knees are mirrored), both scans of the test split.

    Raises
    ------
    UserError
        If a listed pair breaks these rules, or there are fewer couples than asked for.
    """
    mirrored = config["preprocessing"]["mirror_left"]
    if listed:
        return _check_listed(listed, scans, mirrored, config["pairs"]["list"])
    tested = [scan for scan in scans.values() if scan.split == "test" and scan.label]
    couples, faults = [], []
    for task in TASKS:
        wanted = config["pairs"][task]
        if wanted == 0:
            continue
        possible = [
            (task, a.name, b.name)
            for a, b in itertools.combinations(tested, 2)
            if not misfit(task, a, b, mirrored)
        ]
        number = len(possible) if wanted == "all" else wanted
        if not possible or len(possible) < number:
            faults.append(f"{task}: found {len(possible)} couples, pairs.{task} asks for {wanted}")
        else:
            couples += choose_evenly(possible, number, config["seed"])
    heading = (
        f"Too few pairs among the {len(tested)} labelled test scans (ask for fewer in pairs, raise "
        "split.test, or add scans):"
    )
    if not couples and not faults:
        faults.append("no pairs left: pairs.longitudinal and pairs.cross-subject are both 0")
    raise_all(heading, faults)
    return couples


def has_couples(scans: Sequence[Scan], task: str, mirrored: bool) -> bool:
    """Tell whether two of the scans make a couple of a task."""
    return any(not misfit(task, a, b, mirrored) for a, b in itertools.combinations(scans, 2))


def choose_evenly(possible: list[Couple], number: int, seed: int) -> list[Couple]:
    """Choose couples at random but evenly: no scan a second time before others had their first.

    There must be so many.
    """
    random.Random(f"{seed}-{possible[0][0]}").shuffle(possible)
    used: Counter[str] = Counter()
    chosen: list[Couple] = []
    often = 1
    while len(chosen) < number:
        rest = []
        for couple in possible:
            if len(chosen) < number and all(used[name] < often for name in couple[1:]):
                chosen.append(couple)
                used.update(couple[1:])
            else:
                rest.append(couple)
        possible, often = rest, often + 1
    return chosen


def misfit(task: str, a: Scan, b: Scan, mirrored: bool) -> str:
    """Return why two scans are no couple of this task, or an empty string."""
    if a.name == b.name:
        return "a scan with itself"
    if a.side != b.side and (not mirrored or not (a.side and b.side)):
        reason = " while mirror_left is off" if a.side and b.side else ""
        return f"sides {a.side or 'unknown'} and {b.side or 'unknown'}{reason}"
    if task == "longitudinal":
        if a.subject != b.subject:
            return "longitudinal, but different patients"
        if a.side != b.side:
            return "longitudinal, but different sides"
        return "longitudinal, but the same visit" if a.visit == b.visit else ""
    return "cross-subject, but the same patient" if a.subject == b.subject else ""


def _check_listed(
    listed: Mapping[int, Couple], scans: dict[str, Scan], mirrored: bool, path: str
) -> list[Couple]:
    """Return the listed couples once each; a reversed pair belongs to the same couple."""
    faults, couples, seen = [], {}, set()
    for line, (task, fixed, moving) in listed.items():
        wrong = [f"no scan '{n}'{nearest(n, scans)}" for n in (fixed, moving) if n not in scans]
        if task not in TASKS:
            wrong.append(f"task '{task}': expected {' or '.join(TASKS)}{nearest(task, TASKS)}")
        if (fixed, moving) in seen:
            wrong.append(f"pair {fixed}, {moving} again")
        if not wrong:
            reason = misfit(task, scans[fixed], scans[moving], mirrored)
            wrong += [f"pair {fixed}, {moving}: {reason}"] if reason else []
            wrong += [f"scan {n} has no label map" for n in (fixed, moving) if not scans[n].label]
        seen.add((fixed, moving))
        faults += [f"line {line}: {fault}" for fault in wrong]
        couples.setdefault((task, frozenset((fixed, moving))), (task, fixed, moving))
    raise_all(f"{path}: the pair list has faults:", faults)
    return list(couples.values())


def shards(couples: Sequence[Couple], size: int) -> dict[str, list[Couple]]:
    """Cut the couples of each task into shards of at most `size`, named `<task>-<number>`."""
    cut = {}
    for task in TASKS:
        own = [couple for couple in couples if couple[0] == task]
        for number, start in enumerate(range(0, len(own), size)):
            cut[f"{task}-{number:04d}"] = own[start : start + size]
    return cut


def both_directions(couples: Iterable[Couple]) -> list[Couple]:
    """Return each couple followed by its reverse: the directed pairs that are registered."""
    return [pair for task, a, b in couples for pair in ((task, a, b), (task, b, a))]
