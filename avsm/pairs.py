"""Which scans make pairs, and drawing of them."""

from __future__ import annotations

import itertools
import logging
import random
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from avsm.errors import UserError, nearest, raise_all
from avsm.files import read_table
from avsm.manifest import SPLITS, TASKS, Scan, read_manifest

log = logging.getLogger(__name__)
COLUMNS = ("task", "fixed", "moving")
Couples = dict[str, list[tuple[int, int]]]  # by task; positions of scans


def single_tasks(task: str) -> tuple[str, ...]:
    """Give the tasks that a task stands for: ``both`` stands for two."""
    return TASKS[:2] if task == "both" else (task,)


def is_pair(task: str, a: Scan, b: Scan) -> bool:
    """Tell whether two scans make a pair of a task: one side of the body, or mirrored to be."""
    if a is b or a.looks != b.looks:
        return False
    if task == "cross-subject":
        return a.subject != b.subject
    same_visit = bool(a.visit) and a.visit == b.visit
    return a.subject == b.subject and a.side == b.side and not same_visit


def read_couples(path: str | Path, scans: Sequence[Scan]) -> Couples:
    """Read couples from a CSV with the columns task, fixed, moving.

    Parameters
    ----------
    path
        The CSV; images in it are relative to its folder.
    scans
        The scans that the images must be of; couples are given by their positions.

    Returns
    -------
    Couples
        Of each task that the CSV has any of.

    Raises
    ------
    UserError
        If file, column, task or image is missing or wrong, or scans make no pair; lists all faults.
    """
    path = Path(path)
    positions = {scan.image.resolve(): index for index, scan in enumerate(scans)}
    couples: Couples = {}
    faults = []
    _, rows = read_table(path, "--couples", COLUMNS)
    for line, row in rows.items():
        task, *images = (row[name] for name in COLUMNS)
        found = [positions.get((path.parent / image).resolve()) for image in images]
        wrong = [
            f"image {image}: none of the training scans has it"
            for image, position in zip(images, found, strict=True)
            if position is None
        ]
        if task not in TASKS[:2]:
            wrong.append(f"task '{task}': expected {' or '.join(TASKS[:2])}{nearest(task, TASKS)}")
        if not wrong and not is_pair(task, *(scans[position] for position in found)):
            wrong.append(f"{images[0]} and {images[1]} make no {task} pair")
        faults += [f"line {line}: {fault}" for fault in wrong]
        if not wrong:
            couples.setdefault(task, []).append(tuple(found))
    raise_all(f"{path}: the couples have faults:", faults)
    return couples


class PairSampler:
    """Draw training pairs of a task, every subject (longitudinal: every couple) as likely.

    Deviation: the paper fixes 4,200 or 2,800 directed pairs beforehand; here every batch draws
    from all there are, or from couples that are listed, every one as likely.

    Parameters
    ----------
    scans
        The training scans; a pair is given by their positions.
    task
        ``longitudinal``, ``cross-subject`` or ``both``, each as likely.
    listed
        The couples to draw from, in either direction; a task without any draws from all.
    """

    def __init__(self, scans: Sequence[Scan], task: str, listed: Couples | None = None) -> None:
        self.tasks = single_tasks(task)
        sides: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
        for index, scan in enumerate(scans):
            sides[scan.looks][scan.subject].append(index)
        visits = [
            couple
            for own in sides.values()
            for group in own.values()
            for couple in itertools.combinations(group, 2)
            if is_pair("longitudinal", scans[couple[0]], scans[couple[1]])
        ]
        # Where the scans of each subject of a side lie among those of all its subjects.
        self.groups = [
            ([*own.values()], place)
            for own in sides.values()
            for place in range(len(own))
            if len(own) > 1
        ]
        self.couples: Couples = {"longitudinal": visits} | (listed or {})
        for name in self.tasks:
            if not self.couples.get(name, self.groups):
                subjects = len({scan.subject for scan in scans})
                raise UserError(_no_pairs("training", name, len(scans), subjects))

    def draw(self, count: int, generator: torch.Generator) -> tuple[list[int], list[int]]:
        """Draw ``count`` pairs: positions of the fixed and of the moving scans."""
        pairs = [self._one(generator) for _ in range(count)]
        return [fixed for fixed, _ in pairs], [moving for _, moving in pairs]

    def _one(self, generator: torch.Generator) -> tuple[int, int]:
        def below(n: int) -> int:
            return int(torch.randint(n, (1,), generator=generator))

        task = self.tasks[below(len(self.tasks))] if len(self.tasks) > 1 else self.tasks[0]
        if task in self.couples:
            couple = self.couples[task][below(len(self.couples[task]))]
            return couple if below(2) else couple[::-1]
        groups, first = self.groups[below(len(self.groups))]
        second = (first + 1 + below(len(groups) - 1)) % len(groups)
        fixed, moving = groups[first], groups[second]
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


class Cohort(NamedTuple):
    """The scans of a training run, and the couples that were listed."""

    training: list[Scan]
    validation: list[Scan]
    listed: Couples


def read_cohort(manifest: str | Path, task: str, couples: str | Path | None = None) -> Cohort:
    """Read a manifest and, if there is one, the list of couples to train on.

    Training scans that are in no pair of the task are left out.

    Raises
    ------
    UserError
        See ``read_manifest``, ``read_couples``.
    """
    scans = read_manifest(manifest)
    training, validation = ([scan for scan in scans if scan.split == name] for name in SPLITS)
    listed = {} if couples is None else read_couples(couples, training)
    if listed and not {*listed} & {*single_tasks(task)}:
        raise UserError(f"{couples}: found couples for {' and '.join(listed)}, none for {task}")
    listed = {name: listed[name] for name in single_tasks(task) if name in listed}
    for name in single_tasks(task):
        number = f"{len(listed[name])} listed couples" if name in listed else "all couples"
        log.info("%s: pairs of %s", name, number)
    if len(listed) == len(single_tasks(task)):
        used = sorted({index for own in listed.values() for couple in own for index in couple})
        place = {before: now for now, before in enumerate(used)}
        training = [training[index] for index in used]
        listed = {name: [(place[a], place[b]) for a, b in own] for name, own in listed.items()}
    return Cohort(training, validation, listed)


def _no_pairs(kind: str, task: str, scans: int, subjects: int) -> str:
    needs = {
        "longitudinal": "two scans of one subject, of the same side and of different visits",
        "cross-subject": "scans of two subjects, of one side or mirrored to be",
    }[task]
    return (
        f"manifest: no {kind} pairs for the task {task}: it needs {needs}; found {scans} "
        f"{'labelled validation' if kind.startswith('labelled') else 'training'} scans of "
        f"{subjects} subjects. Add such scans, or choose another task."
    )
