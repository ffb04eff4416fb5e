"""Scans of a cohort, their parts, and who is trained, validated and tested on."""

import random
import zlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from avsm.errors import raise_all

PHANTOM_VISITS = ("00m", "24m")
SPLITS = ("train", "validation", "test")
MOST = 100  # scans in a part, about


@dataclass(frozen=True)
class Scan:
    """One image of one patient, which may be missing where `cohort.simulate` is set."""

    subject: str
    visit: str
    side: str
    image: str | None
    label: str | None
    split: str = ""
    mirrored: bool = False  # whether preprocessing reflects it, so that all knees are right knees

    @property
    def name(self) -> str:
        """`<subject>_<visit>_<side>`, without the parts that are empty."""
        return "_".join(part for part in (self.subject, self.visit, self.side) if part)


def simulated_note(images: Sequence[bool]) -> list[str]:
    """Say how many scans have no image of their own; `images` says of each whether it has one."""
    simulated = images.count(False)
    if not simulated:
        return []
    return [f"Images: those of {simulated} of {len(images)} scans are simulated from label maps."]


def in_parts(names: Sequence[str]) -> list[list[str]]:
    """Deal names into parts: Snakemake plans a job of n input files in the order of n^2 steps.

    A name more or less changes one part, unless their number passes a multiple of `MOST`.
    """
    number = 1 + len(names) // MOST
    parts: list[list[str]] = [[] for _ in range(number)]
    for name in names:
        parts[zlib.crc32(name.encode()) % number].append(name)
    return [part for part in parts if part]


def assign_splits(
    scans: Sequence[Scan], parts: dict[str, float], seed: int, listed_test: set[str] = frozenset()
) -> dict[str, str]:
    """Return each patient's split, so that nobody who is tested on is ever trained or tuned on.

    A split given in the manifest stands; patients of `listed_test` are tested on; the others are
    dealt by `parts` (fractions of the patients), each stratum of equal numbers of scans in the
    same proportions. Patients without labels are never test patients. Raises `UserError` if a
    patient is in two splits, or a pair list names a patient of another split.
    """
    of_patient = defaultdict(list)
    for scan in scans:
        of_patient[scan.subject].append(scan)
    faults, decided = [], {}
    labelled, unlabelled = [], []
    for subject, own in of_patient.items():
        given = {scan.split for scan in own if scan.split}
        if subject in listed_test:
            given.add("test")
        if len(given) > 1:
            faults.append(f"patient {subject} is in {' and '.join(sorted(given))}; expected one")
        elif given:
            decided[subject] = given.pop()
        else:
            (labelled if all(scan.label for scan in own) else unlabelled).append(
                (len(own), subject)
            )
    raise_all("Patients in two splits (train, validation and test share none):", faults)
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
