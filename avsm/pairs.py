"""What training draws at random, the same on every device: pairs, affine maps, contrasts."""

import hashlib
import itertools
import logging
import random
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from avsm.errors import UserError, nearest, raise_all
from avsm.files import read_table
from avsm.manifest import SPLITS, TASKS, Scan, looks, misfit, read_manifest
from avsm.maps import Affine, both_ways, resize
from avsm.settings import Augmentation

log = logging.getLogger(__name__)
COLUMNS = ("task", "fixed", "moving")
UNMOVED = 0.2  # share of the pairs whose affine steps start at the identity, as at registration
Couples = dict[str, list[tuple[int, int]]]  # by task; positions of scans


def single_tasks(task: str) -> tuple[str, ...]:
    """Give the tasks that a task stands for: ``both`` stands for two."""
    return TASKS[:2] if task == "both" else (task,)


class Cohort(NamedTuple):
    """The scans of a training run, and the couples that were listed."""

    training: list[Scan]
    validation: list[Scan]
    listed: Couples

    def digest(self) -> str:
        """Tell cohorts apart, by scans and listed couples, wherever their folder is."""
        rows: list[tuple[str, ...]] = sorted(
            (s.split, s.subject, s.visit, s.side, s.image.name, s.label.name if s.label else "")
            for s in (*self.training, *self.validation)
        )
        rows += [
            (task, *(self.training[index].image.name for index in couple))
            for task, couples in self.listed.items()
            for couple in couples
        ]
        return hashlib.sha256(repr(rows).encode()).hexdigest()[:16]


def read_cohort(manifest: str | Path, task: str, couples: str | Path | None = None) -> Cohort:
    """Read a manifest and the list of couples to train on, if there is one.

    Training scans that are in no pair of the task are left out; UserErrors as of both readers.
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


def read_couples(path: str | Path, scans: Sequence[Scan]) -> Couples:
    """Read couples of scans, by task, from a CSV with the columns task, fixed, moving.

    Images in it are relative to its folder. Gives positions of scans; a UserError lists all faults.
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
        if not wrong and misfit(task, *(scans[position] for position in found)):
            wrong.append(f"{images[0]} and {images[1]} make no {task} pair")
        faults += [f"line {line}: {fault}" for fault in wrong]
        if not wrong:
            couples.setdefault(task, []).append(tuple(found))
    raise_all(f"{path}: the couples have faults:", faults)
    return couples


def _no_pairs(kind: str, task: str, scans: int, subjects: int) -> UserError:
    needs = {
        "longitudinal": "two scans of one subject, of the same side and of different visits",
        "cross-subject": "scans of two subjects, of one side or mirrored to be",
    }[task]
    return UserError(
        f"manifest: no {kind} pairs for the task {task}: it needs {needs}; found {scans} {kind} "
        f"scans of {subjects} subjects. Add such scans, or choose another task."
    )


class PairSampler:
    """Draw training pairs of a task, every subject (longitudinal: every couple) as likely.

    Pairs are positions of scans. ``listed`` couples are drawn in either direction; a task without
    any draws from all, ``both`` from each of two tasks as likely. Deviation: the paper fixes 4,200
    or 2,800 directed pairs beforehand; here every batch draws.
    """

    def __init__(self, scans: Sequence[Scan], task: str, listed: Couples | None = None) -> None:
        self.tasks = single_tasks(task)
        sides: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
        for index, scan in enumerate(scans):
            sides[looks(scan)][scan.subject].append(index)
        visits = [
            couple
            for own in sides.values()
            for group in own.values()
            for couple in itertools.combinations(group, 2)
            if not misfit("longitudinal", *(scans[index] for index in couple))
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
                raise _no_pairs("training", name, len(scans), subjects)

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
    """Choose at most so many directed pairs of labelled scans; ``both`` takes half of each task."""
    tasks = single_tasks(task)
    if len(tasks) > 1:
        parts = (validation_pairs(scans, name, most // len(tasks), seed) for name in tasks)
        return [pair for part in parts for pair in part]
    labelled = [index for index, scan in enumerate(scans) if scan.label]
    couples = [
        couple
        for couple in itertools.combinations(labelled, 2)
        if not misfit(task, *(scans[index] for index in couple))
    ]
    if not couples:
        subjects = len({scans[index].subject for index in labelled})
        raise _no_pairs("labelled validation", task, len(labelled), subjects)
    random.Random(f"{seed}-validation-{task}").shuffle(couples)
    directed = [pair for a, b in couples for pair in ((a, b), (b, a))]
    return directed[: max(most, 1)]


def keyed_generator(*key: int | str) -> torch.Generator:
    """Seed a generator by a key such as (seed, stage, epoch, batch), whatever was drawn before."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


def _normal(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    return torch.randn(tuple(shape), generator=generator)


def random_affine(
    count: int, spread: Augmentation, generator: torch.Generator, factor: float = 1.0
) -> Affine:
    """Draw affine maps about the identity, by so many of the standard deviations of ``spread``."""
    free = _normal((count, 3, 3), generator)
    turn, stretch = (free - free.mT) / 2**0.5, (free + free.mT) / 2
    matrix = torch.linalg.matrix_exp(factor * (spread.turn * turn + spread.stretch * stretch))
    return Affine(matrix, factor * spread.shift * _normal((count, 3), generator))


def random_start(pairs: int, spread: Augmentation, generator: torch.Generator) -> Affine | None:
    """Draw where the affine steps of both directions of pairs start; None: at the identity.

    Backward maps are inverses of forward ones. It does what turned images would, without blurring.
    """
    if not (spread.turn or spread.stretch or spread.shift):
        return None
    start = random_affine(pairs, spread, generator)
    stays = torch.rand(pairs, generator=generator) < UNMOVED
    matrix = torch.where(stays[:, None, None], torch.eye(3), start.matrix)
    return both_ways(Affine(matrix, start.offset.masked_fill(stays[:, None], 0.0)))


def random_contrast(images: Tensor, spread: Augmentation, generator: torch.Generator) -> Tensor:
    """Change gamma, add a smooth factor and noise; intensities stay in [0, 1]."""
    if not (spread.gamma or spread.bias or spread.noise):
        return images
    shape, count = images.shape[2:], len(images)
    gamma = torch.exp(spread.gamma * _normal((count, 1, 1, 1, 1), generator)).to(images)
    coarse = _normal((count, 1, 3, 3, 3), generator).to(images)
    changed = images.clamp(0, 1) ** gamma * (1 + spread.bias * resize(coarse, shape))
    if spread.noise:
        changed = changed + spread.noise * _normal(images.shape, generator).to(images)
    return changed.clamp(0, 1)
