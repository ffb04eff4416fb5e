"""Images and label maps of a training run, all on one grid; batches and scores made of them."""

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor

from avsm.errors import UserError, raise_all
from avsm.grid import LIKE_LABELS, check_unit_range, has_few_values, label_faults
from avsm.images import canonical, read_image
from avsm.losses import both_directions
from avsm.manifest import Scan
from avsm.maps import downsample, jacobian_determinant, scaled_shape, warp
from avsm.pairs import PairSampler, random_contrast, read_cohort, validation_pairs
from avsm.settings import Augmentation, Phase, Recipe

log = logging.getLogger(__name__)
FindMap = Callable[[Tensor, Tensor], Tensor]


class ImageStore:
    """The images of scans in half precision, in memory or, when too large, in a file.

    All have one grid, ``shape``, and none is another's copy, nor of those ``seen``, by digests.
    With ``pinned`` they are read to memory from which a GPU copies beside its work.
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

    def read(self, indices: Sequence[int], scale: float = 1.0) -> Tensor:
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


def _read(scan: Scan) -> np.ndarray:
    image = canonical(read_image(scan.image))
    if has_few_values(image):
        raise UserError(f"{scan.image}: {LIKE_LABELS}")
    return check_unit_range(sitk.GetArrayFromImage(image), str(scan.image))


class Pairs(NamedTuple):
    """Images of n pairs, each way round, ``(2 n, 1, D, H, W)``: item i + n is i the other way."""

    fixed: Tensor  # what the networks see, in [0, 1]
    moving: Tensor
    judged_fixed: Tensor  # what the similarity compares: the same, or in one contrast
    judged_moving: Tensor

    def scaled(self, scale: float) -> Self:
        """Give the same pairs at part of their resolution along each axis."""
        if scale == 1:
            return self
        seen = [downsample(image, scale) for image in (self.fixed, self.moving)]
        if self.judged_moving is self.moving:
            return Pairs(*seen, *seen)
        judged = (downsample(image, scale) for image in (self.judged_fixed, self.judged_moving))
        return Pairs(*seen, *judged)

    def judged(self, warped: Tensor, phi: Tensor) -> Tensor:
        """Give what the similarity compares of moving images that are ``warped`` by ``phi``."""
        return warped if self.judged_moving is self.moving else warp(self.judged_moving, phi)


class Source(Protocol):
    """Where training images come from; ``ScanSource`` is the usual one."""

    shape: tuple[int, int, int]

    def draw(self, phase: Phase, epoch: int, generator: torch.Generator) -> Any:
        """Draw what a batch is made from; it stays on the processor."""

    def pairs(self, drawn: Any, device: torch.device) -> Pairs:
        """Make the batch's images on a device."""


class ScanSource:
    """Pairs of the scans of a manifest, their contrasts changed at random."""

    def __init__(self, store: ImageStore, sampler: PairSampler, augmentation: Augmentation) -> None:
        self.store, self.sampler, self.augmentation = store, sampler, augmentation
        self.shape, self.seen = store.shape, store.seen

    def draw(
        self, phase: Phase, epoch: int, generator: torch.Generator
    ) -> tuple[Tensor, torch.Generator]:
        """Draw pairs and read their images, fixed ones in front: ``(2 n, 1, D, H, W)``."""
        fixed, moving = self.sampler.draw(phase.pairs, generator)
        return self.store.read([*fixed, *moving], phase.scale), generator

    def pairs(self, drawn: tuple[Tensor, torch.Generator], device: torch.device) -> Pairs:
        """Change each image by itself and batch the pairs both ways."""
        images, generator = drawn
        images = images.to(device, non_blocking=images.is_pinned()).float()
        images = random_contrast(images, self.augmentation, generator)
        fixed, moving = both_directions(*images.chunk(2))
        return Pairs(fixed, moving, fixed, moving)


def read_labels(
    scans: Sequence[Scan], wanted: Sequence[int] | None = None
) -> tuple[dict[int, Tensor], tuple[int, ...]]:
    """Read the label maps of scans, as far as they have one, and find the structures to score.

    Gives uint8 ``(D, H, W)`` by position of the scan, and the structures' values: those ``wanted``,
    of which each map has some, or all but 0, which each then has. A UserError lists maps that lack
    structures, are another's copy or not of their images.
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


class Score(NamedTuple):
    """Mean Dice over structures and pairs, and the percentage of voxels in which maps fold."""

    dice: float
    folds_percent: float


def dice(fixed: Tensor, warped: Tensor, values: Sequence[int]) -> float:
    """Give the mean Dice of two label maps over the structures in either; NaN if none is."""
    found = []
    for value in values:
        a, b = fixed == value, warped == value
        total = int(a.sum()) + int(b.sum())
        if total:
            found.append(2 * int((a & b).sum()) / total)
    return sum(found) / len(found) if found else float("nan")


@torch.inference_mode()
def validate(
    find_map: FindMap,
    images: Sequence[tuple[Tensor, Tensor]],
    labels: Sequence[tuple[Tensor, Tensor]],
    values: Sequence[int],
) -> Score:
    """Register pairs and compare the fixed label map with the warped moving one.

    ``find_map`` gives the map of two images ``(1, 1, D, H, W)``; label maps are ``(D, H, W)``.
    """
    scores, folds = [], []
    for (fixed, moving), (fixed_label, moving_label) in zip(images, labels, strict=True):
        phi = find_map(fixed, moving)
        moved = moving_label.to(fixed.device).float()[None, None]
        warped = warp(moved, phi, interpolation="nearest")[0, 0]
        scores.append(dice(fixed_label.to(fixed.device), warped, values))
        folds.append(float((jacobian_determinant(phi) < 0).float().mean()))
    return Score(float(torch.tensor(scores).nanmean()), 100 * sum(folds) / len(folds))


class Validation:
    """The validation pairs of a recipe, of scans with label maps, ready to score on a device.

    Their images are on the grid of those of ``source``, and none of them; ``values`` are the
    structures to score, None takes all.
    """

    def __init__(
        self,
        scans: Sequence[Scan],
        recipe: Recipe,
        source: Source,
        values: Sequence[int] | None,
        device: torch.device,
    ) -> None:
        pairs = validation_pairs(scans, recipe.task, recipe.validation_pairs, recipe.seed)
        used = sorted({index for pair in pairs for index in pair})
        scans = [scans[index] for index in used]
        seen = getattr(source, "seen", None)
        store = ImageStore(scans, Path(), memory_gb=float("inf"), seen=seen)
        if store.shape != source.shape:
            raise UserError(
                f"{scans[0].image}: expected the training images' grid (z, y, x) {source.shape}, "
                f"found {store.shape}"
            )
        labels, self.values = read_labels(scans, values)
        self.pairs = [(used.index(fixed), used.index(moving)) for fixed, moving in pairs]
        self.labels = [(labels[fixed], labels[moving]) for fixed, moving in self.pairs]
        self.store, self.device = store, device
        voxels = hashlib.sha256(repr(sorted(store.seen)).encode())
        for label in labels.values():
            voxels.update(label.numpy())
        # What a training that goes on must find again.
        self.data = {"structures": [*self.values], "voxels": voxels.hexdigest()[:16]}

    def score(self, find_map: FindMap) -> Score:
        """Score what finds the map ``(1, 3, D, H, W)`` of a fixed and a moving image."""
        images = [
            tuple(self.store.read([index]).to(self.device).float() for index in pair)
            for pair in self.pairs
        ]
        return validate(find_map, images, self.labels, self.values)


class Data(NamedTuple):
    """What a network is trained and validated on, and what tells it from other data."""

    source: Source
    validation: Validation
    identity: dict[str, Any]


def read_data(
    manifest: str | Path,
    recipe: Recipe,
    folder: Path,
    device: torch.device,
    labels: Sequence[int] | None = None,
    couples: str | Path | None = None,
    source: Source | None = None,
    memory_gb: float = 8,
) -> Data:
    """Read the images and label maps of a training run, see ``train.train`` for the arguments."""
    cohort = read_cohort(manifest, recipe.task, couples)
    if source is None:
        sampler = PairSampler(cohort.training, recipe.task, cohort.listed)
        store = ImageStore(cohort.training, folder, memory_gb, pinned=device.type == "cuda")
        source = ScanSource(store, sampler, recipe.augmentation)
    validation = Validation(cohort.validation, recipe, source, labels, device)
    log.info(
        "%d training and %d validation scans of %s voxels (z, y, x); %d validation pairs, "
        "structures %s; device %s, %d threads",
        *(len(cohort.training), len(cohort.validation)),
        *("x".join(map(str, source.shape)), len(validation.pairs)),
        *(validation.values, device, torch.get_num_threads()),
    )
    return Data(source, validation, {"scans": cohort.digest()} | validation.data)
