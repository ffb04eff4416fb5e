"""Training batches: drawn and read in the background while a GPU computes the one before."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import torch

from avsm.data import ImageStore, on_device
from avsm.pairs import PairSampler
from avsm.recipe import Phase

Loaded = TypeVar("Loaded")


@dataclass(frozen=True)
class Batch:
    """Pairs of images as they were read, and what is to be done with them.

    Attributes
    ----------
    phase
        Of the stage.
    epoch
        n of Eq. 13, from 0.
    generator
        Of everything random in the batch from here on.
    first, second
        Positions of the scans of each pair.
    images
        ``(2B, D, H, W)``, first ones in front; half precision, on the processor.
    """

    phase: Phase
    epoch: float
    generator: torch.Generator
    first: list[int]
    second: list[int]
    images: torch.Tensor

    def images_on(self, device: torch.device) -> torch.Tensor:
        """Give the images on a device, float32 ``(2B, 1, D, H, W)``."""
        return on_device(self.images, device)


def draw_batch(
    store: ImageStore,
    sampler: PairSampler,
    phase: Phase,
    epoch: float,
    generator: torch.Generator,
    same: int = 0,
) -> Batch:
    """Draw pairs and read their images; so many pairs are made of their first image alone."""
    first, second = sampler.draw(phase.pairs, generator)
    second[:same] = first[:same]
    images = store.read([*first, *second], phase.reduction)
    return Batch(phase, epoch, generator, first, second, images)


def one_ahead(jobs: Iterable[Callable[[], Loaded]]) -> Iterator[Loaded]:
    """Do each job in the background while the result of the one before is used."""
    with ThreadPoolExecutor(max_workers=1) as background:
        before = None
        for job in jobs:
            coming = background.submit(job)
            if before is not None:
                yield before.result()
            before = coming
        if before is not None:
            yield before.result()
