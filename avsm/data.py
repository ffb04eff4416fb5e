"""Images and label maps of a training run, all on one grid, and the pairs made of them."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import SimpleITK as sitk
import torch

from avsm.augment import random_contrast
from avsm.errors import UserError, raise_all
from avsm.grid import LIKE_LABELS, check_unit_range, has_few_values, label_faults
from avsm.images import canonical, read_image
from avsm.losses import both_directions
from avsm.manifest import Scan
from avsm.maps import warp
from avsm.pairs import Cohort, PairSampler
from avsm.pyramid import downsample, scaled_shape
from avsm.settings import Augmentation, Phase

log = logging.getLogger(__name__)


class ImageStore:
    """The images of scans in half precision, in memory or, when too large, in a file.

    Parameters
    ----------
    scans
        The scans; images are given by their positions.
    folder
        Where the file goes.
    memory_gb
        The most memory to take.
    pinned
        Whether what is read lies in pinned memory, from which a GPU copies beside its work.
    seen
        Digests of images that may not come again, with their files; those of the scans join them.
    """

    def __init__(
        self,
        scans: Sequence[Scan],
        folder: Path,
        memory_gb: float = 8,
        pinned: bool = False,
        seen: Mapping[str, Path] | None = None,
    ) -> None:
        self.pinned, self.seen = pinned, dict(seen or {})
        first = _read(scans[0])
        self.shape: tuple[int, int, int] = first.shape
        self._folder, self._free = folder, memory_gb * 2**30
        images = self._space("images.f16", (len(scans), *self.shape))
        faults, copies = [], []
        for index, scan in enumerate(scans):
            image = _read(scan) if index else first
            if image.shape != self.shape:
                faults.append(f"{scan.image}: {image.shape}")
                continue
            images[index] = image
            other = self.seen.setdefault(hashlib.sha256(images[index]).hexdigest(), scan.image)
            if other != scan.image:
                copies.append(f"{scan.image} has the voxels of {other}")
        raise_all(
            f"images: expected all on the grid (z, y, x) of {scans[0].image}, {self.shape} voxels "
            "(axes RAS+); bring them to one size first. Found:",
            faults,
        )
        raise_all("images: expected no copies:", copies)
        self._levels: dict[float, np.ndarray] = {1.0: images}

    def __len__(self) -> int:
        """Count the images."""
        return len(self._levels[1.0])

    def read(self, indices: Sequence[int], scale: float = 1.0) -> torch.Tensor:
        """Give images as they are stored ``(B, 1, D, H, W)``, down-sampled to a level."""
        chosen = torch.from_numpy(self._level(scale)[list(indices)])[:, None]
        return chosen.pin_memory() if self.pinned else chosen

    def _level(self, scale: float) -> np.ndarray:
        if scale not in self._levels:
            shape = (len(self), *scaled_shape(self.shape, scale))
            level = self._space(f"images_{scale:g}.f16", shape)
            for index, image in enumerate(self._levels[1.0]):
                whole = torch.from_numpy(np.asarray(image)[None, None]).float()
                level[index] = downsample(whole, scale)[0, 0].numpy()
            self._levels[scale] = level
        return self._levels[scale]

    def _space(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """Make room for images: in memory while there is some left, else in a file."""
        size = 2 * int(np.prod(shape, dtype=np.int64))
        if size <= self._free:
            self._free -= size
            return np.empty(shape, np.float16)
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / name
        log.info("images take more than the memory that is allowed: they go to %s", path)
        return np.memmap(path, np.float16, "w+", shape=shape)


class Pairs(NamedTuple):
    """Images of n pairs, each way round: item i + n is item i the other way.

    Attributes
    ----------
    fixed, moving
        What the networks see, ``(2 n, 1, D, H, W)`` in [0, 1].
    judged_fixed, judged_moving
        What the similarity compares: the same, or the same anatomy in one contrast.
    """

    fixed: torch.Tensor
    moving: torch.Tensor
    judged_fixed: torch.Tensor
    judged_moving: torch.Tensor

    def scaled(self, scale: float) -> Pairs:
        """Give the same pairs at part of their resolution along each axis."""
        if scale == 1:
            return self
        seen = [downsample(image, scale) for image in (self.fixed, self.moving)]
        if self.judged_moving is self.moving:
            return Pairs(*seen, *seen)
        judged = (downsample(image, scale) for image in (self.judged_fixed, self.judged_moving))
        return Pairs(*seen, *judged)

    def judged(self, warped: torch.Tensor, phi: torch.Tensor) -> torch.Tensor:
        """Give what the similarity compares of moving images that are ``warped`` by ``phi``."""
        return warped if self.judged_moving is self.moving else warp(self.judged_moving, phi)


class Source(Protocol):
    """Where training images come from; `ScanSource` is the usual one."""

    shape: tuple[int, int, int]

    def draw(self, phase: Phase, epoch: int, generator: torch.Generator) -> Any:
        """Draw what a batch is made from; it stays on the processor."""

    def pairs(self, drawn: Any, device: torch.device) -> Pairs:
        """Make the batch's images on a device."""


class ScanSource:
    """Pairs of the scans of a manifest, their contrasts changed at random.

    Parameters
    ----------
    store
        The images.
    sampler
        Draws the pairs.
    augmentation
        How much contrasts change.
    """

    def __init__(self, store: ImageStore, sampler: PairSampler, augmentation: Augmentation) -> None:
        self.store, self.sampler, self.augmentation = store, sampler, augmentation
        self.shape, self.seen = store.shape, store.seen

    def draw(
        self, phase: Phase, epoch: int, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Generator]:
        """Draw pairs and read their images, fixed ones in front: ``(2 n, 1, D, H, W)``."""
        fixed, moving = self.sampler.draw(phase.pairs, generator)
        return self.store.read([*fixed, *moving], phase.scale), generator

    def pairs(self, drawn: tuple[torch.Tensor, torch.Generator], device: torch.device) -> Pairs:
        """Change each image by itself and batch the pairs both ways."""
        images, generator = drawn
        images = images.to(device, non_blocking=images.is_pinned()).float()
        images = random_contrast(images, self.augmentation, generator)
        fixed, moving = both_directions(*images.chunk(2))
        return Pairs(fixed, moving, fixed, moving)


def scan_source(
    cohort: Cohort,
    task: str,
    augmentation: Augmentation,
    folder: Path,
    device: torch.device,
    memory_gb: float = 8,
) -> ScanSource:
    """Read a cohort's training images, see ``ImageStore``, to draw a task's pairs from.

    Raises
    ------
    UserError
        If there is no pair of the task, or an image is not as the others, or not in [0, 1].
    """
    sampler = PairSampler(cohort.training, task, cohort.listed)
    store = ImageStore(cohort.training, folder, memory_gb, pinned=device.type == "cuda")
    return ScanSource(store, sampler, augmentation)


def _read(scan: Scan) -> np.ndarray:
    image = canonical(read_image(scan.image))
    if has_few_values(image):
        raise UserError(f"{scan.image}: {LIKE_LABELS}")
    return check_unit_range(sitk.GetArrayFromImage(image), str(scan.image))


def read_labels(
    scans: Sequence[Scan], wanted: Sequence[int] | None = None
) -> tuple[dict[int, torch.Tensor], tuple[int, ...]]:
    """Read the label maps of those scans that have one, and find the structures to score.

    Parameters
    ----------
    scans
        The scans; their images are on one grid.
    wanted
        Values of the structures, of which each label map has some; None takes all but 0, which
        then each has.

    Returns
    -------
    dict of int to torch.Tensor
        uint8 ``(D, H, W)`` by position of the scan.
    tuple of int
        The values of the structures.

    Raises
    ------
    UserError
        If a label map is not one of its image, see ``grid.label_faults``, lacks structures or
        is another's copy.
    """
    labels, faults, seen = {}, [], {}
    for index, scan in enumerate(scans):
        if scan.label is not None:
            label, image = (canonical(read_image(path)) for path in (scan.label, scan.image))
            faults += (wrong := label_faults(label, scan.label, image, scan.image))
            if wrong:
                continue
            array = sitk.GetArrayFromImage(label).astype(np.uint8)
            labels[index] = torch.from_numpy(array)
            other = seen.setdefault(hashlib.sha256(array).hexdigest(), scan.label)
            if other != scan.label:
                faults.append(f"{scan.label} has the voxels of {other}")
    found = {index: {*label.unique().tolist()} for index, label in labels.items()}
    everywhere = set().union(*found.values())
    structures = tuple(wanted or sorted(everywhere - {0}))
    if nowhere := sorted({*structures} - everywhere):
        faults.append(f"none has {nowhere}, found the values {sorted(everywhere)}")
    for index, own in found.items():
        missing = sorted({*structures} - own)
        text = f"{scans[index].label}: found the values {sorted(own)}, without {missing}"
        if not own & {*structures}:
            faults.append(f"{text}, which are to be scored")
        elif missing and not wanted:
            faults.append(f"{text}, which others have; name those to score with --labels")
        elif missing:
            log.warning(text)
    raise_all("label maps:", faults)
    return labels, structures
