"""Multi-Gaussian smoothing K = (L^dagger L)^-1, which turns a momentum into a velocity (Eq. 8, 9).

K is the weighted sum of convolutions with Gaussians, each of unit sum. Boundaries reflect (half a
voxel beyond the first and last voxel), as heat does between insulated walls. This keeps constants,
lets nothing wrap around to the opposite face, and makes K symmetric and positive definite on the
grid, so that <m, K m> is a squared norm. Convolutions with such boundaries are diagonal in the
discrete cosine basis, all widths at once: K costs one cosine transform there and one back, done as
small matrix products along each axis. Frequencies that the narrowest Gaussian damps below rounding
are left out, which makes the matrices thin.

Deviation: the authors' code filters with the FFT, whose boundaries are periodic: a momentum at one
face then moves the opposite face.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import torch
from torch import nn

from avsm.checks import check_volume
from avsm.model_settings import PAPER_SIGMAS, PAPER_WEIGHTS

TAIL = 9.0  # standard deviations at which a kernel is cut: exp(-9^2 / 2) is 3e-18


def kernel_response(size: int, sigma: float, modes: int) -> torch.Tensor:
    """Give the factor by which a sampled Gaussian of unit sum damps each cosine mode.

    Parameters
    ----------
    size
        n, the number of voxels along the axis; voxels are 1 / (n - 1) apart.
    sigma
        Standard deviation as a fraction of the side of the cube.
    modes
        The number of modes; mode k is cos(pi k (j + 1/2) / n) at voxel j.

    Returns
    -------
    torch.Tensor
        ``(modes,)`` in float64, 1 for mode 0.
    """
    width = sigma * (size - 1)
    offsets = torch.arange(1, max(1, math.ceil(TAIL * width)) + 1, dtype=torch.float64)
    tail = torch.exp(-0.5 * (offsets / width) ** 2)
    angles = math.pi / size * torch.arange(modes, dtype=torch.float64)[:, None] * offsets
    return (1 + 2 * (torch.cos(angles) @ tail)) / (1 + 2 * tail.sum())


def kept_modes(size: int, sigma: float, precision: float) -> int:
    """Count the modes that a Gaussian leaves above ``precision``; at most ``size``."""
    # A Gaussian damps mode k by exp(-(pi k sigma / (n h))^2 / 2), where h = 1 / (n - 1).
    extent = size / (size - 1)
    limit = extent * math.sqrt(-2 * math.log(precision)) / (math.pi * sigma)
    return min(size, math.ceil(limit) + 1)


@functools.lru_cache(maxsize=64)
def cosine_basis(size: int, modes: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Give the first functions of the orthonormal cosine basis (DCT-II): (size, modes)."""
    with torch.inference_mode(False):  # a cached tensor must stay usable in training
        positions = torch.arange(size, dtype=torch.float64)[:, None] + 0.5
        basis = torch.cos(math.pi / size * positions * torch.arange(modes, dtype=torch.float64))
        basis *= math.sqrt(2 / size)
        basis[:, 0] *= math.sqrt(0.5)
        return basis.to(dtype).to(device)  # in this order: not all devices know float64


@functools.lru_cache(maxsize=16)
def transfer_function(
    shape: tuple[int, int, int],
    modes: tuple[int, int, int],
    sigmas: tuple[float, ...],
    weights: tuple[float, ...],
    dtype: torch.dtype,
    device: torch.device,
) -> torch.Tensor:
    """Give the factor of K for every product of cosine modes: ``modes`` in shape, positive."""
    with torch.inference_mode(False):
        total = torch.zeros(modes, dtype=torch.float64)
        for sigma, weight in zip(sigmas, weights, strict=True):
            z, y, x = (kernel_response(n, sigma, k) for n, k in zip(shape, modes, strict=True))
            total += weight * z[:, None, None] * y[:, None] * x
        return total.to(dtype).to(device)


def smooth(field: torch.Tensor, sigmas: Sequence[float], weights: Sequence[float]) -> torch.Tensor:
    """Convolve each channel of a field with a weighted sum of Gaussians.

    Parameters
    ----------
    field
        ``(B, C, D, H, W)``.
    sigmas
        Standard deviations as fractions of the unit cube, whose side is the volume's along each
        axis.
    weights
        The weight of each Gaussian; constants are multiplied by the sum of the weights.

    Returns
    -------
    torch.Tensor
        ``(B, C, D, H, W)`` in the units of the field.
    """
    check_volume("field", field)
    modes = _modes(field, sigmas)
    return _multiply_modes(field, _transfer(field, modes, sigmas, weights))


def _modes(field: torch.Tensor, sigmas: Sequence[float]) -> tuple[int, int, int]:
    precision = torch.finfo(field.dtype).eps / 4
    depth, height, width = (kept_modes(n, min(sigmas), precision) for n in field.shape[2:])
    return depth, height, width


def _transfer(
    field: torch.Tensor,
    modes: tuple[int, int, int],
    sigmas: Sequence[float],
    weights: Sequence[float],
) -> torch.Tensor:
    kernel = tuple(sigmas), tuple(weights)
    return transfer_function(tuple(field.shape[2:]), modes, *kernel, field.dtype, field.device)


def _multiply_modes(field: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Multiply the first cosine modes of a field by a factor each, and leave out the others."""
    sizes = zip(field.shape[2:], factor.shape, strict=True)
    z, y, x = (cosine_basis(n, k, field.dtype, field.device) for n, k in sizes)
    spectrum = _apply_axes(field, x.T, y.T, z.T)  # W first: the longest axis of a contiguous field
    return _apply_axes(spectrum * factor, x, y, z, reverse=True)


def _apply_axes(
    field: torch.Tensor, x: torch.Tensor, y: torch.Tensor, z: torch.Tensor, reverse: bool = False
) -> torch.Tensor:
    """Multiply a field by a matrix (out, in) along each axis, from W to D or in reverse."""
    order = ((-1, x), (-2, y), (-3, z))
    for axis, matrix in reversed(order) if reverse else order:
        if axis == -1:
            field = field @ matrix.T
        elif axis == -2:
            field = matrix @ field
        else:
            field = (matrix @ field.flatten(-2)).unflatten(-1, field.shape[-2:])
    return field


class MultiGaussian(nn.Module):
    """The smoothing operator K: velocity = K momentum.

    Parameters
    ----------
    sigmas
        Standard deviations in the unit cube.
    weights
        Weights of the Gaussians.
    """

    def __init__(
        self, sigmas: Sequence[float] = PAPER_SIGMAS, weights: Sequence[float] = PAPER_WEIGHTS
    ) -> None:
        super().__init__()
        if len(sigmas) != len(weights) or not sigmas:
            raise ValueError(
                f"sigmas, weights: expected as many widths as weights and at least one, "
                f"found {len(sigmas)} and {len(weights)}"
            )
        if min(sigmas) <= 0 or min(weights) < 0:
            raise ValueError(
                "sigmas, weights: expected positive widths and weights of at least 0, "
                f"found {tuple(sigmas)} and {tuple(weights)}"
            )
        self.sigmas = tuple(float(sigma) for sigma in sigmas)
        self.weights = tuple(float(weight) for weight in weights)

    def forward(self, momentum: torch.Tensor) -> torch.Tensor:
        """Smooth a momentum ``(B, 3, D, H, W)`` of any grid to the velocity of the same shape."""
        return smooth(momentum, self.sigmas, self.weights)

    def momentum_of(self, momentum: torch.Tensor, other: MultiGaussian) -> torch.Tensor:
        """Give the momentum whose velocity is, by this operator, that of a momentum by another.

        Parameters
        ----------
        momentum
            ``(B, 3, D, H, W)``, of the other operator.
        other
            The other one; none of its Gaussians is narrower than this one's narrowest, or the
            quotient would blow up what is fine.

        Raises
        ------
        ValueError
            If one is.
        """
        if min(other.sigmas) < min(self.sigmas):
            raise ValueError(
                f"other: expected widths of at least {min(self.sigmas)}, found {other.sigmas}"
            )
        if (other.sigmas, other.weights) == (self.sigmas, self.weights):
            return momentum
        modes = _modes(momentum, other.sigmas)
        theirs, own = (_transfer(momentum, modes, one.sigmas, one.weights) for one in (other, self))
        return _multiply_modes(momentum, theirs / own)

    def extra_repr(self) -> str:
        """Show the widths and weights in the module's print-out."""
        return f"sigmas={self.sigmas}, weights={self.weights}"
