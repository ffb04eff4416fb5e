"""The complete losses of both stages (Eq. 6 and Eq. 9-12).

Both directions of n pairs come as one batch of 2 n: item i registers a pair one way, item i + n the
other way. Sums over the two directions are as in the paper; over pairs it is the mean.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from avsm.affine import Affine, affine_asymmetry, affine_deviation
from avsm.checks import check_same_shape, check_volume
from avsm.maps import compose, identity_map
from avsm.settings import LAMBDA_AS, LAMBDA_VR, LAMBDA_VS

Similarity = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class Losses(NamedTuple):
    """The loss and its weighted terms, each a scalar: ``total`` is their sum."""

    total: torch.Tensor
    similarity: torch.Tensor
    regularisation: torch.Tensor
    symmetry: torch.Tensor


def both_directions(fixed: torch.Tensor, moving: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Batch n pairs both ways: fixed and moving images ``(2 n, 1, D, H, W)``."""
    check_same_shape("moving", moving, "fixed", fixed)
    return torch.cat([fixed, moving]), torch.cat([moving, fixed])


def _halves(tensor: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    if tensor.shape[0] % 2:
        raise ValueError(
            "batch: expected an even size, the second half being the pairs of the first half the "
            f"other way round, found {tensor.shape[0]}"
        )
    first, second = tensor.chunk(2)
    return first, second


def _sum_directions(per_item: torch.Tensor) -> torch.Tensor:
    """Sum over the two directions, average over the pairs."""
    return 2 * per_item.mean()


def _losses(
    similarity: torch.Tensor, regularisation: torch.Tensor, symmetry: torch.Tensor
) -> Losses:
    total = similarity + regularisation + symmetry
    return Losses(total, similarity, regularisation, symmetry)


def affine_losses(
    similarity: torch.Tensor,
    affine: Affine,
    lambda_ar: float,
    lambda_as: float = LAMBDA_AS,
) -> Losses:
    """Give the complete affine loss (Eq. 6).

    Parameters
    ----------
    similarity
        Similarity loss of each item, ``(B,)``.
    affine
        Composed parameters of the last step.
    lambda_ar
        Weight of the deviation from the identity, ``affine_regularisation_weight(epoch)``.
    lambda_as
        Weight of the symmetry.

    Returns
    -------
    Losses
        Scalars by name.
    """
    deviation = lambda_ar * affine_deviation(affine)  # Eq. 4
    (a, a_ts), (b, b_ts) = _halves(affine.matrix), _halves(affine.offset)
    symmetry = lambda_as * affine_asymmetry(Affine(a, b), Affine(a_ts, b_ts)).mean()  # Eq. 5
    return _losses(_sum_directions(similarity), _sum_directions(deviation), symmetry)  # Eq. 6


def velocity_energy(momentum: torch.Tensor, velocity: torch.Tensor) -> torch.Tensor:
    """Give <m, v> of Eq. 9 as an integral over the unit cube, in the cube's units: ``(B,)``.

    Lengths in the unit cube are half of those in normalised coordinates, hence the quarter.
    Deviation: the authors' code sums voxels times the product of spacings 1 / (n - 1), 5 per cent
    more than the mean used here, and drops negative products, which makes it no norm any more.

    Parameters
    ----------
    momentum, velocity
        m and v = K m, ``(B, 3, D, H, W)`` in normalised coordinates.
    """
    check_volume("momentum", momentum, channels=3)
    check_same_shape("velocity", velocity, "momentum", momentum)
    return (momentum * velocity).sum(dim=1).mean(dim=(1, 2, 3)) / 4  # Eq. 9


def asymmetry(phi: torch.Tensor, phi_ts: torch.Tensor) -> torch.Tensor:
    """Give the distance of phi(phi_ts(x)) from x, Eq. 10 without its weight: ``(B,)``.

    Deviation: Eq. 10 has a squared norm, that is a sum, and the weight 1e-4. As in the authors'
    code this is the mean over voxels and components of squared distances in the unit cube, with
    weight 500, so that the weight does not depend on the resolution. At 80x192x192 voxels that is
    a sum with weight 500 / (3 x 80 x 192 x 192) = 5.7e-5.

    Parameters
    ----------
    phi, phi_ts
        The maps of both directions, ``(B, 3, D, H, W)`` in normalised coordinates, at full or at
        low resolution.
    """
    residual = compose(phi, phi_ts) - identity_map(phi_ts.shape[2:], phi_ts)
    return (residual / 2).square().mean(dim=(1, 2, 3, 4))  # Eq. 10


def step_losses(
    similarity: torch.Tensor,
    phi: torch.Tensor,
    momentum: torch.Tensor,
    velocity: torch.Tensor,
    lambda_vr: float = LAMBDA_VR,
    lambda_vs: float = LAMBDA_VS,
) -> Losses:
    """Give the complete loss of one vSVF step (Eq. 11).

    Parameters
    ----------
    similarity
        Similarity loss of each item, ``(B,)``.
    phi
        The maps after the step, ``(B, 3, D, H, W)``.
    momentum, velocity
        m and v = K m of the step, ``(B, 3, D, H, W)``.
    lambda_vr
        Weight of the regularisation.
    lambda_vs
        Weight of the symmetry; at 0 it is not evaluated.

    Returns
    -------
    Losses
        Scalars by name.
    """
    energy = lambda_vr * velocity_energy(momentum, velocity)  # Eq. 9
    symmetry = torch.zeros_like(energy[0])
    if lambda_vs:
        symmetry = lambda_vs * asymmetry(*_halves(phi)).mean()  # Eq. 10
    return _losses(_sum_directions(similarity), _sum_directions(energy), symmetry)  # Eq. 11


def sum_losses(steps: Sequence[Losses]) -> Losses:
    """Add the losses of all steps, name by name (Eq. 12)."""
    return Losses(*(torch.stack(terms).sum() for terms in zip(*steps, strict=True)))
