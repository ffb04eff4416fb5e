"""Random affine maps and contrasts, all from a generator that the caller seeds.

Draws are made on the processor, so that they are the same on every device.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch

from avsm.affine import Affine, invert_affine
from avsm.maps import resize
from avsm.settings import Augmentation

UNMOVED = 0.2  # share of the pairs whose affine steps start at the identity, as at registration


def keyed_generator(*key: int | str) -> torch.Generator:
    """Seed a generator by a key such as (seed, stage, epoch, batch).

    The same key gives the same numbers, whatever was drawn before: a resumed run draws what an
    unbroken one draws.
    """
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


def normal(shape: Sequence[int], generator: torch.Generator) -> torch.Tensor:
    """Draw standard normal numbers."""
    return torch.randn(tuple(shape), generator=generator)


def random_affine(
    count: int, spread: Augmentation, generator: torch.Generator, factor: float = 1.0
) -> Affine:
    """Draw affine maps about the identity: (count, 3, 3) and (count, 3).

    Parameters
    ----------
    count
        Of maps.
    spread
        Standard deviations.
    generator
        Of the draws.
    factor
        Of all standard deviations.
    """
    free = normal((count, 3, 3), generator)
    turn, stretch = (free - free.mT) / 2**0.5, (free + free.mT) / 2
    matrix = torch.linalg.matrix_exp(factor * (spread.turn * turn + spread.stretch * stretch))
    return Affine(matrix, factor * spread.shift * normal((count, 3), generator))


def random_start(pairs: int, spread: Augmentation, generator: torch.Generator) -> Affine | None:
    """Draw where the affine steps of both directions of pairs start; None: at the identity.

    The backward maps are the inverses of the forward ones. To start elsewhere does what turned and
    shifted images would, and does not blur them.
    """
    if not (spread.turn or spread.stretch or spread.shift):
        return None
    start = random_affine(pairs, spread, generator)
    stays = torch.rand(pairs, generator=generator) < UNMOVED
    matrix = torch.where(stays[:, None, None], torch.eye(3), start.matrix)
    start = Affine(matrix, start.offset.masked_fill(stays[:, None], 0.0))
    return both_ways(start)


def both_ways(forward: Affine) -> Affine:
    """Give the maps of a batch of both directions: forward ones, then their inverses."""
    parts = zip(forward, invert_affine(forward), strict=True)
    return Affine(*(torch.cat(part) for part in parts))


def random_contrast(
    images: torch.Tensor, spread: Augmentation, generator: torch.Generator
) -> torch.Tensor:
    """Change gamma, add a smooth factor and noise; intensities stay in [0, 1]."""
    if not (spread.gamma or spread.bias or spread.noise):
        return images
    shape, count = images.shape[2:], len(images)
    gamma = torch.exp(spread.gamma * normal((count, 1, 1, 1, 1), generator)).to(images)
    coarse = normal((count, 1, 3, 3, 3), generator).to(images)
    changed = images.clamp(0, 1) ** gamma * (1 + spread.bias * resize(coarse, shape))
    if spread.noise:
        changed = changed + spread.noise * normal(images.shape, generator).to(images)
    return changed.clamp(0, 1)
