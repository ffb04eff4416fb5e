"""Affine alignment of a group of images with their mean, all at once.

It makes the affine map between any two of the images known, up to their differences in shape: with
a_i from the mean's space to image i, image j is read at a_j(a_i^-1(x)) to match image i.
"""

from __future__ import annotations

import logging

import torch

from avsm.affine import Affine, affine_from_residual, change_frame, compose_affine
from avsm.augment import invert_affine
from avsm.data import ImageStore
from avsm.maps import warp
from avsm.reduction import frame_scale
from avsm.similarity import dense_windows, mk_lncc_loss

log = logging.getLogger(__name__)
RATE = 0.02  # of Adam, in normalised coordinates
CHUNK = 8  # images at a time
COARSEST, LEAST_VOXELS = 8, 10  # reduction of the small images, and their shortest side


def align_group(store: ImageStore, iterations: int, device: torch.device) -> Affine:
    """Find the affine map from the space of the mean image to each image.

    Two thirds of the iterations are done on small images, the rest on images twice as large.

    Parameters
    ----------
    store
        The images.
    iterations
        Number of steps of Adam, whose rate decays to a tenth.
    device
        Where to compute.

    Returns
    -------
    Affine
        On the processor; (N, 3, 3) and (N, 3), in the images' normalised coordinates.
    """
    level = COARSEST
    while level > 1 and min(store.shape) / level < LEAST_VOXELS:
        level //= 2
    residual = torch.zeros(len(store), 12, device=device)
    coarse = 2 * iterations // 3
    fine = max(1, level // 2)
    for reduction, count, start in ((level, coarse, 1.0), (fine, iterations - coarse, 0.3)):
        if not count:
            continue
        images = store.batch(range(len(store)), reduction, device)
        residual = _descend(images, residual, count, RATE * start)
    aligned = _recentred(affine_from_residual(residual.cpu()))
    return change_frame(aligned, 1 / frame_scale(store.shape, fine))


def _descend(
    images: torch.Tensor, residual: torch.Tensor, iterations: int, rate: float
) -> torch.Tensor:
    residual = residual.clone().requires_grad_()
    optimiser = torch.optim.Adam([residual], lr=rate)
    windows = dense_windows(images.shape[2:])
    for iteration in range(iterations):
        if iteration % 5 == 0:
            with torch.no_grad():
                residual.copy_(_residual(_recentred(affine_from_residual(residual))))
            template = _mean_image(images, residual)
        for group in optimiser.param_groups:
            group["lr"] = rate * 0.1 ** (iteration / iterations)
        optimiser.zero_grad()
        total = 0.0
        for part in torch.arange(len(images)).split(CHUNK):
            affine = affine_from_residual(residual[part])
            warped = warp(images[part], affine.map(images.shape[2:]))
            loss = mk_lncc_loss(warped, template.expand_as(warped), windows).sum()
            loss.backward()
            total += float(loss.detach())
        optimiser.step()
    log.info(
        "aligned %d images of %s voxels with their mean: mk-LNCC loss %.3f",
        len(images),
        "x".join(str(n) for n in images.shape[2:]),
        total / len(images),
    )
    return residual.detach()


@torch.no_grad()
def _mean_image(images: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
    affine = affine_from_residual(residual)
    total = torch.zeros_like(images[:1])
    for part in torch.arange(len(images)).split(CHUNK):
        chosen = Affine(affine.matrix[part], affine.offset[part])
        total += warp(images[part], chosen.map(images.shape[2:])).sum(dim=0, keepdim=True)
    return total / len(images)


def _recentred(affine: Affine) -> Affine:
    """Move the mean's space so that the maps average to the identity."""
    mean = Affine(affine.matrix.mean(0, keepdim=True), affine.offset.mean(0, keepdim=True))
    inverse = invert_affine(mean)
    return compose_affine(
        affine,
        Affine(inverse.matrix.expand_as(affine.matrix), inverse.offset.expand_as(affine.offset)),
    )


def _residual(affine: Affine) -> torch.Tensor:
    """Give the twelve numbers of ``affine_from_residual``."""
    identity = torch.eye(3, device=affine.matrix.device)
    return torch.cat([(affine.matrix - identity).flatten(1), affine.offset], dim=1)
