"""Splits by patient: nobody who is tested on is ever trained or tuned on."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from avsm.errors import raise_all

if TYPE_CHECKING:
    from workflow.data.scan import Scan

SPLITS = ("train", "validation", "test")


def assign_splits(
    scans: Sequence[Scan], parts: dict[str, float], seed: int, listed_test: set[str] = frozenset()
) -> dict[str, str]:
    """Return each patient's split.

    A split given in the manifest stands; patients of `listed_test` are tested on; the others are
    dealt by `parts` (fractions of the patients), each stratum of equal numbers of scans in the
    same proportions. Patients without labels are never test patients.

    Raises
    ------
    UserError
        If a patient is in two splits, or a pair list names a patient of another split.
    """
    of_patient = defaultdict(list)
    for scan in scans:
        of_patient[scan.subject].append(scan)
    faults, decided = [], {}
    for subject, own in of_patient.items():
        given = {scan.split for scan in own if scan.split}
        if subject in listed_test:
            given.add("test")
        if len(given) > 1:
            faults.append(f"patient {subject} is in {' and '.join(sorted(given))}; expected one")
        elif given:
            decided[subject] = given.pop()
    raise_all("Patients in two splits (train, validation and test share none):", faults)

    labelled, unlabelled = [], []
    for subject, own in of_patient.items():
        if subject not in decided:
            has_labels = all(scan.label for scan in own)
            (labelled if has_labels else unlabelled).append((len(own), subject))
    dealt = _deal(labelled, parts["test"], parts["validation"], seed)
    return decided | dealt | _deal(unlabelled, 0.0, parts["validation"], seed)


def _deal(
    patients: list[tuple[int, str]], test: float, validation: float, seed: int
) -> dict[str, str]:
    """Deal patients ``(scans, subject)`` into splits; cumulative rounding keeps the proportions."""
    order = sorted(patients)
    random.Random(f"{seed}-split").shuffle(order)
    order.sort(key=lambda patient: patient[0])
    splits, given = {}, {"test": 0, "validation": 0}
    for count, (_, subject) in enumerate(order, start=1):
        splits[subject] = "train"
        for name, part in (("test", test), ("validation", validation)):
            if round(part * count) > given[name]:
                given[name] += 1
                splits[subject] = name
                break
    return splits
