"""Images and label maps of a training run, all on one grid."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch

from avsm.errors import UserError, raise_all
from avsm.images import canonical, check_unit_range, read_image
from avsm.manifest import Scan
from avsm.reduction import reduce, reduced_shape

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
    """

    def __init__(
        self, scans: Sequence[Scan], folder: Path, memory_gb: float = 8, pinned: bool = False
    ) -> None:
        self.pinned = pinned
        first = _read(scans[0])
        self.shape: tuple[int, int, int] = first.shape
        self._folder, self._free = folder, memory_gb * 2**30
        self._images = self._space("images.f16", (len(scans), *self.shape))
        faults = []
        for index, scan in enumerate(scans):
            image = _read(scan) if index else first
            if image.shape != self.shape:
                faults.append(f"{scan.image}: {image.shape}")
                continue
            self._images[index] = image
        raise_all(
            f"images: expected all on the grid (z, y, x) of {scans[0].image}, {self.shape} voxels "
            "(axes RAS+); bring them to one size first. Found:",
            faults,
        )
        self._reduced: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        """Count the images."""
        return len(self._images)

    def read(self, indices: Sequence[int], reduction: int) -> torch.Tensor:
        """Give images as they are stored ``(B, D, H, W)``, averaged to a smaller grid."""
        chosen = self._chosen(indices, reduction)
        return chosen.pin_memory() if self.pinned else chosen

    def batch(self, indices: Sequence[int], reduction: int, device: torch.device) -> torch.Tensor:
        """Give images as float32 ``(B, 1, D, H, W)``, averaged to a smaller grid."""
        return on_device(self._chosen(indices, reduction), device)

    def _chosen(self, indices: Sequence[int], reduction: int) -> torch.Tensor:
        images = self._images if reduction == 1 else self._at(reduction)
        return torch.from_numpy(images[list(indices)])

    def _at(self, reduction: int) -> np.ndarray:
        if reduction not in self._reduced:
            shape = (len(self), *reduced_shape(self.shape, reduction))
            smaller = self._space(f"images_{reduction}.f16", shape)
            for index, image in enumerate(self._images):
                whole = torch.from_numpy(np.asarray(image)[None, None]).float()
                smaller[index] = reduce(whole, reduction)[0, 0].numpy()
            self._reduced[reduction] = smaller
        return self._reduced[reduction]

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


def on_device(images: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Give stored images as float32 ``(B, 1, D, H, W)`` on a device."""
    return images.to(device, non_blocking=images.is_pinned())[:, None].float()


def _read(scan: Scan) -> np.ndarray:
    image = canonical(read_image(scan.image))
    return check_unit_range(sitk.GetArrayFromImage(image), str(scan.image))


def read_labels(scans: Sequence[Scan], shape: tuple[int, int, int]) -> dict[int, torch.Tensor]:
    """Read the label maps of those scans that have one: uint8 ``(D, H, W)`` by position.

    Raises
    ------
    UserError
        If a label map is not of whole numbers up to 255, or not on the images' grid.
    """
    labels, faults = {}, []
    for index, scan in enumerate(scans):
        if scan.label is None:
            continue
        array = sitk.GetArrayFromImage(canonical(read_image(scan.label)))
        whole = np.equal(np.mod(array, 1), 0).all() and 0 <= array.min() <= array.max() <= 255
        if array.shape != shape:
            faults.append(f"{scan.label}: expected the images' grid {shape}, found {array.shape}")
        elif not whole:
            faults.append(f"{scan.label}: expected whole numbers from 0 to 255")
        else:
            labels[index] = torch.from_numpy(array.astype(np.uint8))
    raise_all("label maps:", faults)
    return labels


def label_values(labels: dict[int, torch.Tensor], wanted: Sequence[int] | None) -> tuple[int, ...]:
    """Give the structures to score: those wanted, else all values but 0.

    Raises
    ------
    UserError
        If a wanted value, or any, is in no label map.
    """
    found = sorted({int(v) for label in labels.values() for v in label.unique()} - {0})
    missing = [value for value in wanted or () if value not in found]
    if missing or not found:
        raise UserError(
            f"labels: the validation label maps hold the values {found}; expected "
            f"{missing or 'at least one'}"
        )
    return tuple(wanted) if wanted else tuple(found)
