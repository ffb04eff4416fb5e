"""Random poses, shapes and contrasts, all from a generator that the caller seeds.

Draws are made on the processor, so that they are the same on every device.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch

from avsm.affine import Affine, affine_from_residual, identity_affine
from avsm.maps import affine_map, affine_part, half_shape, identity_map, resize, warp_displacement
from avsm.recipe import Augmentation
from avsm.smoothing import smooth


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


def random_affine(count: int, spread: Augmentation, generator: torch.Generator) -> Affine:
    """Draw affine maps about the identity: (count, 3, 3) and (count, 3)."""
    free = normal((count, 3, 3), generator)
    turn, stretch = (free - free.mT) / 2**0.5, (free + free.mT) / 2
    matrix = torch.linalg.matrix_exp(spread.turn * turn + spread.stretch * stretch)
    return Affine(matrix, spread.shift * normal((count, 3), generator))


def scale_affine(affine: Affine, factor: torch.Tensor) -> Affine:
    """Scale the deviation from the identity by a factor per item, ``(B,)``."""
    residual = torch.cat([(affine.matrix - torch.eye(3)).flatten(1), affine.offset], dim=1)
    return affine_from_residual(factor[:, None] * residual)


def invert_affine(affine: Affine) -> Affine:
    """Give the inverse map: A^-1 and -A^-1 b."""
    inverse = torch.linalg.inv(affine.matrix)
    return Affine(inverse, -(inverse @ affine.offset[..., None])[..., 0])


def random_shapes(
    count: int, shape: Sequence[int], spread: Augmentation, generator: torch.Generator
) -> torch.Tensor:
    """Draw smooth displacements without an affine part, ``(count, 3, D, H, W)``.

    Their standard deviation is ``spread.shape`` in normalised coordinates.
    """
    coarse = half_shape(half_shape(shape)) if min(shape) >= 16 else tuple(shape)
    field = smooth(normal((count, 3, *coarse), generator), (spread.shape_width,), (1.0,))
    field = field - affine_map(*affine_part(field), coarse)
    field = field * (spread.shape / field.square().mean(dim=(1, 2, 3, 4), keepdim=True).sqrt())
    return resize(field, shape)


def resample(
    images: torch.Tensor, pose: Affine, displacement: torch.Tensor | None = None
) -> torch.Tensor:
    """Read images ``(B, 1, D, H, W)`` at A (x + d(x)) + b, constant beyond the border.

    Black beyond the border would show the pose, and a network that is trained to tell it would
    read it off there.
    """
    shape = images.shape[2:]
    pose = Affine(pose.matrix.to(images.device), pose.offset.to(images.device))
    if displacement is None:
        return warp_displacement(images, pose.map(shape))
    inner = identity_map(shape, images) + displacement.to(images.device)
    points = (pose.matrix @ inner.flatten(2) + pose.offset[..., None]).unflatten(2, shape)
    return warp_displacement(images, points)


def random_black(
    images: torch.Tensor, spread: Augmentation, generator: torch.Generator
) -> torch.Tensor:
    """Blacken what lies outside of a randomly posed volume, as earlier steps' warps do.

    Every other image, drawn at random, stays as it is.
    """
    inside = random_affine(len(images), spread, generator).map(images.shape[2:]).abs().amax(dim=1)
    kept = torch.rand(len(images), generator=generator)[:, None, None, None] < 0.5
    return images * ((inside <= 1) | kept).to(images)[:, None]


def random_contrast(
    images: torch.Tensor, spread: Augmentation, generator: torch.Generator
) -> torch.Tensor:
    """Change gamma, add a smooth factor and noise; intensities stay in [0, 1]."""
    shape, count = images.shape[2:], len(images)
    gamma = torch.exp(spread.gamma * normal((count, 1, 1, 1, 1), generator)).to(images)
    coarse = normal((count, 1, 3, 3, 3), generator).to(images)
    changed = images.clamp(0, 1) ** gamma * (1 + spread.bias * resize(coarse, shape))
    if spread.noise:
        changed = changed + spread.noise * normal(images.shape, generator).to(images)
    return changed.clamp(0, 1)


def change(
    images: torch.Tensor, spread: Augmentation, generator: torch.Generator
) -> tuple[torch.Tensor, Affine]:
    """Change pose, shape and contrast of each image of a batch; also give the poses."""
    count = len(images)
    if spread == Augmentation():
        return images, identity_affine(count, torch.zeros(1))
    pose = random_affine(count, spread, generator)
    shapes = random_shapes(count, images.shape[2:], spread, generator)
    return random_contrast(resample(images, pose, shapes), spread, generator), pose
