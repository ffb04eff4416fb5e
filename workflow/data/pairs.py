"""Which scans are registered with one another: test pairs, and what networks are trained on.

A couple is two scans of a task: longitudinal (same patient and side, other visit) or cross-subject
(other patient, same side once left knees are mirrored).
"""

import itertools
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from avsm.errors import UserError, nearest, raise_all
from avsm.files import read_table
from avsm.manifest import misfit
from workflow.config import TASKS
from workflow.data.scans import Scan

Couple = tuple[str, str, str]  # task, fixed, moving
COUPLE_COLUMNS = ("task", "fixed", "moving")


def possible_couples(scans: Iterable[Scan], task: str) -> Iterator[Couple]:
    """Yield all couples of a task that some scans make."""
    for a, b in itertools.combinations(scans, 2):
        if not misfit(task, a, b):
            yield task, a.name, b.name


def choose_evenly(possible: list[Couple], number: int, seed: int) -> list[Couple]:
    """Choose so many couples at random: no scan comes again before others had their first turn."""
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


def read_pair_list(path: str) -> dict[int, Couple]:
    """Read an explicit list by line: a CSV with the columns task, fixed, moving."""
    _, rows = read_table(path, "pairs.list", COUPLE_COLUMNS)
    if not rows:
        raise UserError(f"{path}: no pairs; list some, or set pairs.list to null")
    return {line: tuple(row[column] for column in COUPLE_COLUMNS) for line, row in rows.items()}


def select_couples(
    scans: dict[str, Scan], config: dict[str, Any], listed: Mapping[int, Couple] | None = None
) -> list[Couple]:
    """Return the test couples: those listed, or a seeded choice by `pairs` of the configuration.

    Both scans are of the test split and have label maps. Raises `UserError` if a listed pair is no
    such couple, or there are fewer couples than asked for.
    """
    if listed:
        return _check_listed(listed, scans, config["pairs"]["list"])
    tested = [scan for scan in scans.values() if scan.split == "test" and scan.label]
    couples, faults = [], []
    for task in TASKS:
        wanted = config["pairs"][task]
        if wanted == 0:
            continue
        possible = [*possible_couples(tested, task)]
        number = len(possible) if wanted == "all" else wanted
        if not possible or len(possible) < number:
            faults.append(f"{task}: found {len(possible)} couples, pairs.{task} asks for {wanted}")
        else:
            couples += choose_evenly(possible, number, config["seed"])
    if not couples and not faults:
        faults.append("no pairs left: pairs.longitudinal and pairs.cross-subject are both 0")
    raise_all(
        f"Too few pairs among the {len(tested)} labelled test scans (ask for fewer in pairs, raise "
        "split.test, or add scans):",
        faults,
    )
    return couples


def _check_listed(listed: Mapping[int, Couple], scans: dict[str, Scan], path: str) -> list[Couple]:
    """Return the listed couples once each; a reversed pair belongs to the same couple."""
    faults, couples, seen = [], {}, set()
    for line, (task, fixed, moving) in listed.items():
        wrong = [f"no scan '{n}'{nearest(n, scans)}" for n in (fixed, moving) if n not in scans]
        if task not in TASKS:
            wrong.append(f"task '{task}': expected {' or '.join(TASKS)}{nearest(task, TASKS)}")
        if (fixed, moving) in seen:
            wrong.append(f"pair {fixed}, {moving} again")
        if not wrong:
            reason = misfit(task, scans[fixed], scans[moving])
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


def training_couples(
    scans: dict[str, Scan], config: dict[str, Any], tasks: Sequence[str]
) -> dict[str, list[Couple]]:
    """Return so many couples of each task as the configuration asks for; none of a task: all.

    They are a seeded choice that is spread evenly over the scans. Raises `UserError` if the
    training scans make fewer.
    """
    seed = config["seed"]
    training = [scan for _, scan in sorted(scans.items()) if scan.split == "train"]
    couples: dict[str, list[Couple]] = {task: [] for task in tasks}
    faults = []
    for task in tasks:
        wanted = config["training"]["couples"][task]
        if wanted == "all":
            continue
        if task == "longitudinal":
            possible = [*_visits(training)]
        else:
            possible = [*itertools.islice(_across(training, seed), wanted)]
        if len(possible) < wanted:
            faults.append(f"{task}: found {len(possible)}, asked for {wanted}")
        else:
            couples[task] = choose_evenly(possible, wanted, seed)
    raise_all(
        f"training.couples: more than the {len(training)} training scans make (ask for fewer, or "
        "for all):",
        faults,
    )
    return couples


def _visits(scans: Sequence[Scan]) -> Iterator[Couple]:
    """Yield all longitudinal couples; only scans of one patient are compared."""
    of_patient = defaultdict(list)
    for scan in scans:
        of_patient[scan.subject].append(scan)
    for own in of_patient.values():
        yield from possible_couples(own, "longitudinal")


def _across(scans: Sequence[Scan], seed: int) -> Iterator[Couple]:
    """Yield all cross-subject couples in random rounds, in which no scan comes twice."""
    # As in a tournament (the circle method), so that a few out of millions cost little.
    rng = random.Random(f"{seed}-training")
    order = [*scans]
    rng.shuffle(order)
    # Of an even number of places, one of them empty.
    last = max(0, len(order) - 1 + len(order) % 2)
    for turn in rng.sample(range(last), last):
        for place in range(last):
            other = (turn - place) % last
            if other == place:
                other = last
            if place < other < len(order):
                yield from possible_couples((order[place], order[other]), "cross-subject")


def training_scans(scans: dict[str, Scan], couples: dict[str, list[Couple]]) -> list[Scan]:
    """Return the scans to train on, and those to validate on, which have labels, by name.

    `couples` are those of `training_couples`; a task that they leave open may take any scan.
    """
    listed = {name for own in couples.values() for _, *names in own for name in names}
    everything = not all(couples.values())
    return [
        scan
        for name, scan in sorted(scans.items())
        if (scan.split == "train" and (everything or name in listed))
        or (scan.split == "validation" and scan.label)
    ]


def read_scan(scan: Scan) -> Scan:
    """Return a scan as it is read: no label map of a training image, and nothing mirrored yet."""
    unread = scan.split == "train" and scan.image
    return replace(scan, mirrored=False, label=None if unread else scan.label)


def check_training(
    scans: Sequence[Scan],
    tasks: Sequence[str],
    learned: Sequence[str],
    own: bool = True,
) -> None:
    """Raise one `UserError` that names every task without training or validation pairs.

    Networks that are not trained on the cohort's `own` scans need pairs for validation alone.
    """
    found = []
    kinds = {"train": "training"} if own else {}
    for split, kind in (kinds | {"validation": "labelled validation"}).items():
        some = [scan for scan in scans if scan.split == split]
        patients = len({scan.subject for scan in some})
        found += [
            f"{task}: no {kind} pairs among the {len(some)} {kind} scans of {patients} patients"
            for task in tasks
            if not any(possible_couples(some, task))
        ]
    raise_all(
        f"{', '.join(learned)}: too few scans to train networks on (lower split.test or raise "
        "split.validation, give scans the split train or validation in the manifest, or take "
        "these methods off methods):",
        found,
    )


def listed_path(kind: str, scan: str) -> str:
    """Return the path of a scan's preprocessed file in the CSVs of a training."""
    return f"../../{kind}/{scan}.nii"


def couple_rows(couples: Iterable[Couple]) -> list[Couple]:
    """Return the rows, of `COUPLE_COLUMNS`, of a list of training couples."""
    return [(task, *(listed_path("images", name) for name in names)) for task, *names in couples]


def manifest_rows(scans: Sequence[Scan]) -> list[dict[str, str]]:
    """Return the rows of the training manifest.

    Only validation scans have label maps: their Dice chooses the weights that are kept.
    """
    return [
        {
            "subject": scan.subject,
            "image": listed_path("images", scan.name),
            "label": listed_path("labels", scan.name) if scan.split == "validation" else "",
            "split": scan.split,
            "visit": scan.visit,
            "side": scan.side,
            "mirrored": "yes" if scan.mirrored else "",
        }
        for scan in scans
    ]
