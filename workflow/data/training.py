"""What networks are trained and validated on, and the CSVs that hand it over."""

from __future__ import annotations

import itertools
import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from avsm.errors import raise_all
from workflow.data.pairs import Couple, choose_evenly, has_couples, misfit
from workflow.data.scan import Scan

COLUMNS = ("subject", "image", "label", "split", "visit", "side", "mirrored")
COUPLE_COLUMNS = ("task", "fixed", "moving")


def training_scans(scans: dict[str, Scan], couples: dict[str, list[Couple]]) -> list[Scan]:
    """Return the scans to train on, and those to validate on, which have labels.

    `couples` are those of `training_couples`; a task that they leave open may take any scan.
    """
    listed = {name for own in couples.values() for _, *names in own for name in names}
    everything = not all(couples.values())
    chosen = [
        scan
        for scan in scans.values()
        if (scan.split == "train" and (everything or scan.name in listed))
        or (scan.split == "validation" and scan.label)
    ]
    return sorted(chosen, key=lambda scan: scan.name)


def training_couples(
    scans: dict[str, Scan], config: dict[str, Any], tasks: Sequence[str]
) -> dict[str, list[Couple]]:
    """Return so many couples of each task as the configuration asks for; none of a task: all.

    They are a seeded choice that is spread evenly over the scans.

    Raises
    ------
    UserError
        If the training scans make fewer.
    """
    mirrored, seed = config["preprocessing"]["mirror_left"], config["seed"]
    training = sorted(
        (scan for scan in scans.values() if scan.split == "train"), key=lambda scan: scan.name
    )
    couples: dict[str, list[Couple]] = {}
    faults = []
    for task in tasks:
        wanted = config["training"]["couples"][task]
        couples[task] = []
        if wanted == "all":
            continue
        if task == "longitudinal":
            possible = [*_visits(training, mirrored)]
        else:
            possible = [*itertools.islice(_across(training, mirrored, seed), wanted)]
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


def _visits(scans: Sequence[Scan], mirrored: bool) -> Iterator[Couple]:
    """Yield all longitudinal couples; only scans of one patient are compared."""
    of_patient = defaultdict(list)
    for scan in scans:
        of_patient[scan.subject].append(scan)
    for own in of_patient.values():
        for a, b in itertools.combinations(own, 2):
            if not misfit("longitudinal", a, b, mirrored):
                yield "longitudinal", a.name, b.name


def _across(scans: Sequence[Scan], mirrored: bool, seed: int) -> Iterator[Couple]:
    """Yield all cross-subject couples in random rounds, in which no scan comes twice.

    As in a tournament (the circle method), so that a few out of millions cost little.
    """
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
                a, b = order[place], order[other]
                if not misfit("cross-subject", a, b, mirrored):
                    yield "cross-subject", a.name, b.name


def read_scan(scan: Scan) -> Scan:
    """Return a scan without a label map that is never read: that of a training image."""
    unread = scan.split == "train" and scan.image
    return replace(scan, label=None) if unread else scan


def check_training(
    scans: Sequence[Scan],
    tasks: Sequence[str],
    mirrored: bool,
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
            if not has_couples(some, task, mirrored)
        ]
    raise_all(
        f"{', '.join(learned)}: too few scans to train networks on (lower split.test or raise "
        "split.validation, give scans the split train or validation in the manifest, or take "
        "these methods off methods):",
        found,
    )


def listed_path(kind: str, scan: str) -> str:
    """Return the path of a scan's preprocessed file in the CSVs in `<run>/training/<pairs>/`."""
    return f"../../{kind}/{scan}.nii"


def couple_rows(couples: dict[str, list[Couple]]) -> list[dict[str, str]]:
    """Return the rows of the list of training couples, which lies beside the manifest."""
    return [
        {
            "task": task,
            "fixed": listed_path("images", fixed),
            "moving": listed_path("images", moving),
        }
        for own in couples.values()
        for task, fixed, moving in own
    ]


def manifest_rows(scans: Sequence[Scan], mirror_left: bool) -> list[dict[str, str]]:
    """Return the rows of the training manifest; left scans may be mirrored.

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
            "mirrored": "yes" if mirror_left and scan.side == "left" else "",
        }
        for scan in scans
    ]
