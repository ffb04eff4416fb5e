"""The manifest of preprocessed scans, and which of them make pairs."""

from __future__ import annotations

import csv
import itertools
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from avsm.errors import UserError, nearest, raise_all

TASKS = ("longitudinal", "cross-subject", "both")
SPLITS = ("train", "validation")
REQUIRED = ("subject", "image", "split")
OPTIONAL = ("label", "visit", "side")


@dataclass(frozen=True)
class Scan:
    """One row of a manifest.

    Attributes
    ----------
    subject
        Who was scanned.
    image, label
        Files; ``label`` is None for a scan without one.
    split
        ``train`` or ``validation``.
    visit, side
        When, and which side of the body; may be empty.
    """

    subject: str
    image: Path
    label: Path | None
    split: str
    visit: str = ""
    side: str = ""


def read_manifest(path: str | Path) -> list[Scan]:
    """Read a CSV with the columns subject, image, split and optionally label, visit, side.

    Relative paths are relative to the manifest's folder. Rows of other splits (a test set) are
    left out.

    Raises
    ------
    UserError
        If the file, a column, a value or a named file is missing or wrong; lists all faults.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file; expected a CSV with columns {', '.join(REQUIRED)}")
    with path.open(newline="", encoding="utf-8-sig") as stream:
        reader = csv.DictReader(stream)
        columns = reader.fieldnames or []
        rows = list(reader)
    missing = [f"no column '{name}'{nearest(name, columns)}" for name in REQUIRED]
    missing = [text for name, text in zip(REQUIRED, missing, strict=True) if name not in columns]
    raise_all(f"{path}: found the columns {', '.join(columns) or 'none'}:", missing)
    faults: list[str] = []
    scans = []
    for line, row in enumerate(rows, start=2):
        values = {key: (row.get(key) or "").strip() for key in REQUIRED + OPTIONAL}
        wrong = _row_faults(values, path.parent)
        faults += [f"line {line}: {fault}" for fault in wrong]
        if not wrong and values["split"] in SPLITS:
            scans.append(_scan(values, path.parent))
    raise_all(f"{path}: the manifest has faults:", faults)
    for split in SPLITS:
        if not any(scan.split == split for scan in scans):
            raise UserError(f"{path}: no scan has the split '{split}'; training needs both splits")
    _check_subjects(scans, path)
    return scans


def _row_faults(values: dict[str, str], folder: Path) -> list[str]:
    faults = [f"{key} is empty" for key in REQUIRED if not values[key]]
    if values["split"] and values["split"] not in (*SPLITS, "test"):
        hint = nearest(values["split"], SPLITS)
        faults.append(f"split '{values['split']}': expected {', '.join(SPLITS)} or test{hint}")
    faults += [
        f"{key} {folder / values[key]}: no such file"
        for key in ("image", "label")
        if values[key] and values["split"] in SPLITS and not (folder / values[key]).is_file()
    ]
    return faults


def _scan(values: dict[str, str], folder: Path) -> Scan:
    label = folder / values["label"] if values["label"] else None
    rest = {key: values[key] for key in ("subject", "split", "visit", "side")}
    return Scan(image=folder / values["image"], label=label, **rest)


def _check_subjects(scans: Sequence[Scan], path: Path) -> None:
    splits: dict[str, set[str]] = defaultdict(set)
    for scan in scans:
        splits[scan.subject].add(scan.split)
    shared = [name for name, found in splits.items() if len(found) > 1]
    raise_all(f"{path}: subjects in both splits:", shared)


def single_tasks(task: str) -> tuple[str, ...]:
    """Give the tasks that a task stands for: ``both`` stands for two."""
    return TASKS[:2] if task == "both" else (task,)


def is_pair(task: str, a: Scan, b: Scan) -> bool:
    """Tell whether two scans make a pair of a task."""
    if a is b:
        return False
    if task == "cross-subject":
        return a.subject != b.subject
    same_visit = bool(a.visit) and a.visit == b.visit
    return a.subject == b.subject and a.side == b.side and not same_visit


class PairSampler:
    """Draw training pairs of a task, every subject (longitudinal: every pair) as likely.

    Deviation: the paper fixes 4,200 or 2,800 directed pairs beforehand; here every batch draws
    from all there are.

    Parameters
    ----------
    scans
        The training scans; a pair is given by their positions.
    task
        ``longitudinal``, ``cross-subject`` or ``both``, each as likely.
    """

    def __init__(self, scans: Sequence[Scan], task: str) -> None:
        self.tasks = single_tasks(task)
        by_subject: dict[str, list[int]] = defaultdict(list)
        for index, scan in enumerate(scans):
            by_subject[scan.subject].append(index)
        self.groups = list(by_subject.values())
        self.couples = [
            couple
            for group in self.groups
            for couple in itertools.combinations(group, 2)
            if is_pair("longitudinal", scans[couple[0]], scans[couple[1]])
        ]
        for name in self.tasks:
            possible = self.couples if name == "longitudinal" else self.groups[1:]
            if not possible:
                raise UserError(_no_pairs("training", name, len(scans), len(self.groups)))

    def draw(self, count: int, generator: torch.Generator) -> tuple[list[int], list[int]]:
        """Draw ``count`` pairs: positions of the fixed and of the moving scans."""
        pairs = [self._one(generator) for _ in range(count)]
        return [fixed for fixed, _ in pairs], [moving for _, moving in pairs]

    def _one(self, generator: torch.Generator) -> tuple[int, int]:
        def below(n: int) -> int:
            return int(torch.randint(n, (1,), generator=generator))

        task = self.tasks[below(len(self.tasks))] if len(self.tasks) > 1 else self.tasks[0]
        if task == "longitudinal":
            couple = self.couples[below(len(self.couples))]
            return couple if below(2) else couple[::-1]
        first = below(len(self.groups))
        second = (first + 1 + below(len(self.groups) - 1)) % len(self.groups)
        fixed, moving = self.groups[first], self.groups[second]
        return fixed[below(len(fixed))], moving[below(len(moving))]


def validation_pairs(
    scans: Sequence[Scan], task: str, most: int, seed: int
) -> list[tuple[int, int]]:
    """Choose up to ``most`` directed pairs of labelled scans, the same for the same seed.

    The task ``both`` takes half of them from each.

    Raises
    ------
    UserError
        If there is none.
    """
    tasks = single_tasks(task)
    if len(tasks) > 1:
        parts = (validation_pairs(scans, name, most // len(tasks), seed) for name in tasks)
        return [pair for part in parts for pair in part]
    labelled = [index for index, scan in enumerate(scans) if scan.label]
    couples = [
        couple
        for couple in itertools.combinations(labelled, 2)
        if is_pair(task, scans[couple[0]], scans[couple[1]])
    ]
    if not couples:
        subjects = len({scans[index].subject for index in labelled})
        raise UserError(_no_pairs("labelled validation", task, len(labelled), subjects))
    random.Random(f"{seed}-validation-{task}").shuffle(couples)
    directed = [pair for a, b in couples for pair in ((a, b), (b, a))]
    return directed[: max(most, 1)]


def _no_pairs(kind: str, task: str, scans: int, subjects: int) -> str:
    needs = {
        "longitudinal": "two scans of one subject, of the same side and of different visits",
        "cross-subject": "scans of two subjects",
    }[task]
    return (
        f"manifest: no {kind} pairs for the task {task}: it needs {needs}; found {scans} "
        f"{'labelled validation' if kind.startswith('labelled') else 'training'} scans of "
        f"{subjects} subjects. Add such scans, or choose another task."
    )
