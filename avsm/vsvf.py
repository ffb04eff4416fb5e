"""The vSVF unit (Fig. 3): a momentum is smoothed to a velocity, which advances the map (Eq. 8, 9).

The velocity is v = K m, K = (L^dagger L)^-1 the weighted sum of convolutions with Gaussians of unit
sum. Boundaries reflect (half a voxel beyond the outermost ones), which keeps constants, lets
nothing wrap around and makes <m, K m> a squared norm. Such convolutions are diagonal in the
discrete cosine basis: K costs a transform there and back, by matrices that are thin because modes
that the narrowest Gaussian damps below rounding are left out. Deviation: the authors' code filters
with the FFT, whose boundaries are periodic: a momentum at one face then moves the opposite face.

The map follows phi_t + D phi v = 0, phi(0) = phi0, for unit time, hence phi(1) = phi0 o exp(-v),
see ``advance``. A velocity of 2 crosses the volume. Deviation: the authors' code clamps velocities
to about seven voxels per axis, which stops their gradient; here nothing is clamped.
"""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn

from avsm.errors import choose
from avsm.maps import (
    check_same_shape,
    check_volume,
    compose,
    identity_map,
    resize,
    self_compose,
    spacing,
    warp,
    warp_displacement,
)
from avsm.settings import PAPER_SIGMAS, PAPER_WEIGHTS, SOLVERS

TAIL = 9.0  # standard deviations at which a kernel is cut: exp(-9^2 / 2) is 3e-18
RK4_STEPS = 10
SQUARINGS = 5  # with the midpoint rule more of them gain nothing: see benchmarks/solvers.py


def _kernel_response(size: int, sigma: float, modes: int) -> Tensor:
    """Give the factor by which a sampled Gaussian damps each cosine mode, in float64."""
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
def _cosine_basis(size: int, modes: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Give the first functions of the orthonormal cosine basis (DCT-II): (size, modes)."""
    with torch.inference_mode(False):  # a cached tensor must stay usable in training
        positions = torch.arange(size, dtype=torch.float64)[:, None] + 0.5
        basis = torch.cos(math.pi / size * positions * torch.arange(modes, dtype=torch.float64))
        basis *= math.sqrt(2 / size)
        basis[:, 0] *= math.sqrt(0.5)
        return basis.to(dtype).to(device)  # in this order: not all devices know float64


@functools.lru_cache(maxsize=16)
def _transfer_function(
    shape: tuple[int, ...],
    modes: tuple[int, ...],
    sigmas: tuple[float, ...],
    weights: tuple[float, ...],
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    """Give the factor of K for every product of cosine modes: ``modes`` in shape, positive."""
    with torch.inference_mode(False):
        total = torch.zeros(modes, dtype=torch.float64)
        for sigma, weight in zip(sigmas, weights, strict=True):
            z, y, x = (_kernel_response(n, sigma, k) for n, k in zip(shape, modes, strict=True))
            total += weight * z[:, None, None] * y[:, None] * x
        return total.to(dtype).to(device)


def _multiply_modes(field: Tensor, factor: Tensor) -> Tensor:
    """Multiply the first cosine modes of a field by a factor each, and leave out the others."""
    sizes = zip(field.shape[2:], factor.shape, strict=True)
    z, y, x = (_cosine_basis(n, k, field.dtype, field.device) for n, k in sizes)
    field = y.T @ (field @ x)  # W first: the longest axis of a contiguous field
    field = (z.T @ field.flatten(-2)).unflatten(-1, field.shape[-2:]) * factor
    field = (z @ field.flatten(-2)).unflatten(-1, field.shape[-2:])
    return (y @ field) @ x.T


class MultiGaussian(nn.Module):
    """The smoothing operator K: velocity = K momentum.

    ``sigmas`` are standard deviations in the unit cube, whose side is the volume's along each axis.
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

    def forward(self, momentum: Tensor) -> Tensor:
        """Smooth a momentum ``(B, C, D, H, W)`` of any grid to the velocity of the same shape."""
        check_volume("momentum", momentum)
        return _multiply_modes(momentum, self._transfer(momentum, self._modes(momentum)))

    def momentum_of(self, momentum: Tensor, other: Self) -> Tensor:
        """Give the momentum whose velocity is, by this operator, that of a momentum by another.

        None of the other's Gaussians may be narrower than this one's: the quotient would blow up.
        """
        if min(other.sigmas) < min(self.sigmas):
            raise ValueError(
                f"other: expected widths of at least {min(self.sigmas)}, found {other.sigmas}"
            )
        if (other.sigmas, other.weights) == (self.sigmas, self.weights):
            return momentum
        modes = other._modes(momentum)
        quotient = other._transfer(momentum, modes) / self._transfer(momentum, modes)
        return _multiply_modes(momentum, quotient)

    def _modes(self, field: Tensor) -> tuple[int, ...]:
        precision = torch.finfo(field.dtype).eps / 4
        return tuple(kept_modes(n, min(self.sigmas), precision) for n in field.shape[2:])

    def _transfer(self, field: Tensor, modes: tuple[int, ...]) -> Tensor:
        kernel = self.sigmas, self.weights
        return _transfer_function(tuple(field.shape[2:]), modes, *kernel, field.dtype, field.device)


def exponential(velocity: Tensor, squarings: int = SQUARINGS) -> Tensor:
    """Give the displacement u ``(B, 3, D, H, W)`` of a stationary velocity's flow, exp(v) = id + u.

    Time is cut into 2^squarings steps; beyond the border the velocity is constant.
    """
    identity = identity_map(velocity.shape[2:], velocity)
    small = velocity / 2**squarings
    # The first step by the midpoint rule: its error is of second order, the Euler step's of first.
    return self_compose(warp_displacement(small, identity + small / 2), squarings)


def advance(
    phi: Tensor, velocity: Tensor, solver: str = "squaring", steps: int | None = None
) -> Tensor:
    """Advance a map by a stationary velocity for unit time: phi o exp(-v), see the module.

    Both are ``(B, 3, D, H, W)`` on one grid, in normalised coordinates. ``squaring`` composes
    2^``steps`` equal steps, 32 where None; it is stable for any velocity, nearer to the exact flow
    and cheaper. ``rk4``, 10 steps where None, is the authors' code's (the paper names no method):
    Runge-Kutta with central differences, which grows without bound where a step moves points by 2.8
    voxels or more.
    """
    choose("solver", solver, SOLVERS)
    check_volume("phi", phi, channels=3)
    check_same_shape("velocity", velocity, "phi", phi)
    if solver == "rk4":
        return _advance_rk4(phi, velocity, RK4_STEPS if steps is None else steps)
    flow = exponential(-velocity, SQUARINGS if steps is None else steps)
    return compose(phi, identity_map(phi.shape[2:], phi) + flow)


def _advance_rk4(phi: Tensor, velocity: Tensor, steps: int) -> Tensor:
    """Advance a map by the classical Runge-Kutta method on the advection equation."""
    distances = spacing(phi.shape[2:])

    def rate(state: Tensor) -> Tensor:
        # One-sided differences at the border are central ones of a linearly extrapolated map.
        slopes = torch.gradient(state, spacing=distances, dim=(2, 3, 4))
        parts = (slope * velocity[:, axis : axis + 1] for axis, slope in enumerate(slopes))
        return -sum(parts)  # phi_t = -D phi v, Eq. 8

    dt = 1 / steps
    for _ in range(steps):
        k1 = rate(phi)
        k2 = rate(phi + dt / 2 * k1)
        k3 = rate(phi + dt / 2 * k2)
        k4 = rate(phi + dt * k3)
        phi = phi + dt / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return phi


class Step(NamedTuple):
    """What one vSVF step gives."""

    momentum: Tensor  # m, ``(B, 3, D', H', W')`` at half the resolution
    velocity: Tensor  # v = K m, likewise
    low_map: Tensor  # after the step, likewise; affine part and earlier steps included
    map: Tensor  # the same at full resolution, ``(B, 3, D, H, W)``
    warped: Tensor  # the moving image read at ``map``, ``(B, 1, D, H, W)``


def vsvf_step(
    momentum: Tensor,
    velocity: Tensor,
    low_map: Tensor,
    moving: Tensor,
    solver: str = "squaring",
    solver_steps: int | None = None,
) -> Step:
    """Advance a low-resolution map by a velocity, up-sample it once and warp (Fig. 3).

    ``momentum``, ``velocity`` and ``low_map``, where the step starts, are ``(B, 3, D', H', W')``,
    the moving image is ``(B, 1, D, H, W)``.
    """
    low = advance(low_map, velocity, solver, solver_steps)
    phi = resize(low, moving.shape[2:])
    return Step(momentum, velocity, low, phi, warp(moving, phi))
