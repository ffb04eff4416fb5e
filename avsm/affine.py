"""Affine parameters: composition (Eq. 1), their losses (Eq. 4, 5) and the decaying factor (Eq. 13).

The map of parameters (A, b) is phi(x) = A x + b in normalised coordinates about the centre of the
volume, axes in the order (z, y, x).
"""

import math
from collections.abc import Sequence
from typing import NamedTuple, Self

import torch
from torch import Tensor

from avsm.maps import affine_map


class Affine(NamedTuple):
    """Affine parameters Gamma = (A, b) of a batch: ``(B, 3, 3)`` and, normalised, ``(B, 3)``."""

    matrix: Tensor
    offset: Tensor

    def map(self, shape: Sequence[int]) -> Tensor:
        """Sample the map on a grid (D, H, W): ``(B, 3, D, H, W)``."""
        return affine_map(self.matrix, self.offset, shape)

    def to(self, place: Tensor) -> Self:
        """Give the parameters with the dtype and device of a tensor."""
        return self._make(part.to(place) for part in self)


def identity_affine(batch: int, like: Tensor) -> Affine:
    """Give the identity, A = I and b = 0, with the dtype and device of ``like``."""
    matrix = torch.eye(3, dtype=like.dtype, device=like.device).expand(batch, 3, 3)
    return Affine(matrix, torch.zeros(batch, 3, dtype=like.dtype, device=like.device))


def affine_from_residual(residual: Tensor) -> Affine:
    """Read ``(B, 12)`` numbers as a deviation from the identity: A - I row by row, then b."""
    if residual.ndim != 2 or residual.shape[1] != 12:
        raise ValueError(f"residual: expected shape (B, 12), found {tuple(residual.shape)}")
    start = identity_affine(residual.shape[0], residual)
    return Affine(start.matrix + residual[:, :9].reshape(-1, 3, 3), residual[:, 9:])


def compose_affine(update: Affine, current: Affine) -> Affine:
    """Refine affine parameters by what a step predicts: the map x -> update(current(x))."""
    matrix = update.matrix @ current.matrix  # Eq. 1: A_t = A~_t A_(t-1)
    offset = (update.matrix @ current.offset[..., None])[..., 0]
    return Affine(matrix, offset + update.offset)  # Eq. 1: b_t = A~_t b_(t-1) + b~_t


def invert_affine(affine: Affine) -> Affine:
    """Give the inverse map: A^-1 and -A^-1 b."""
    inverse = torch.linalg.inv(affine.matrix)
    return Affine(inverse, -(inverse @ affine.offset[..., None])[..., 0])


def affine_deviation(affine: Affine) -> Tensor:
    """Give the squared distance from the identity, Eq. 4 without its weight: ``(B,)``."""
    residual = affine.matrix - torch.eye(3, dtype=affine.matrix.dtype, device=affine.matrix.device)
    return residual.square().sum(dim=(1, 2)) + affine.offset.square().sum(dim=1)  # Eq. 4


def affine_asymmetry(forward: Affine, backward: Affine) -> Tensor:
    """Give the squared distance of backward(forward(x)) from x, Eq. 5 without its weight: ``(B,)``.

    A^ts A - I and A^ts b + b^ts are the deviation of the composed parameters from the identity.
    """
    return affine_deviation(compose_affine(backward, forward))  # Eq. 5


def affine_regularisation_weight(epoch: float, constant: float = 10, decay: float = 4) -> float:
    """Give the weight lambda_ar of Eq. 4 in an epoch n from 0 (Eq. 13): C K / (K + exp(n / K)).

    A larger K (``decay``, in epochs) decays later and more slowly; the defaults are the paper's,
    with which the weight is 8.0 in epoch 0 and falls to 0.
    """
    # Eq. 13 with numerator and denominator divided by exp(n / K): no overflow in late epochs.
    fading = math.exp(-epoch / decay)
    return constant * decay * fading / (decay * fading + 1)
