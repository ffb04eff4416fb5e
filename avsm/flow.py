"""Advance a map by a stationary velocity for unit time: phi_t + D phi v = 0, phi(0) = phi0 (Eq. 8).

The solution is phi(1) = phi0 o exp(-v): voxels look upstream. Two solvers of the one problem:

``squaring``
    Scaling and squaring: exp(-v) from 2^n equal steps by n self-compositions, then phi0 o exp(-v).
    Stable for any velocity; folds come from interpolation alone, since maps without folds compose
    to one without. The default: nearer to the exact flow, above all at the border, and cheaper.
``rk4``
    The authors' code's (the paper names 10 time steps and no method): Runge-Kutta of fourth order
    in time, central differences in space, linear extrapolation of the map at the border. Stable
    while the voxels that a step moves a point along the three axes sum to less than 2.8; beyond
    that it oscillates and grows without bound.

Velocities are in the map's coordinates: a velocity of 2 crosses the volume in unit time. There are
no clamps. Deviation: the authors' code clamps the velocity to about seven voxels per axis, which
makes it non-smooth and stops its gradient.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from avsm.checks import check_same_shape, check_volume
from avsm.errors import choose
from avsm.maps import compose, identity_map, self_compose, spacing, warp_displacement

RK4_STEPS = 10
SQUARINGS = 5  # with the midpoint rule more of them gain nothing: see benchmarks/solvers.py


def exponential(velocity: torch.Tensor, squarings: int = SQUARINGS) -> torch.Tensor:
    """Follow a stationary velocity for unit time by scaling and squaring.

    Beyond the border the velocity goes on with its value at the border.

    Parameters
    ----------
    velocity
        ``(B, 3, D, H, W)`` in normalised coordinates.
    squarings
        n: time is cut into 2^n steps.

    Returns
    -------
    torch.Tensor
        The displacement u ``(B, 3, D, H, W)`` of the flow exp(v) = id + u.
    """
    identity = identity_map(velocity.shape[2:], velocity)
    small = velocity / 2**squarings
    # The first step by the midpoint rule: its error is of second order, the Euler step's of first.
    return self_compose(warp_displacement(small, identity + small / 2), squarings)


def advance_squaring(
    phi: torch.Tensor, velocity: torch.Tensor, squarings: int = SQUARINGS
) -> torch.Tensor:
    """Advance a map by scaling and squaring: phi o exp(-v)."""
    inverse_flow = identity_map(phi.shape[2:], phi) + exponential(-velocity, squarings)
    return compose(phi, inverse_flow)


def advance_rk4(phi: torch.Tensor, velocity: torch.Tensor, steps: int = RK4_STEPS) -> torch.Tensor:
    """Advance a map by the classical Runge-Kutta method on the advection equation."""
    distances = spacing(phi.shape[2:])

    def rate(state: torch.Tensor) -> torch.Tensor:
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


SOLVERS: dict[str, Callable[..., torch.Tensor]] = {
    "squaring": advance_squaring,
    "rk4": advance_rk4,
}
DEFAULT_STEPS = {"squaring": SQUARINGS, "rk4": RK4_STEPS}


def advance(
    phi: torch.Tensor,
    velocity: torch.Tensor,
    solver: str = "squaring",
    steps: int | None = None,
) -> torch.Tensor:
    """Advance a map by a stationary velocity for unit time: phi o exp(-v).

    Parameters
    ----------
    phi
        The initial map ``(B, 3, D, H, W)``: the affine map, or that of the previous step.
    velocity
        ``(B, 3, D, H, W)`` on the same grid, in normalised coordinates.
    solver
        ``squaring`` or ``rk4``.
    steps
        Squarings or Runge-Kutta steps; None takes the default of the solver, 5 or 10.

    Returns
    -------
    torch.Tensor
        The advanced map ``(B, 3, D, H, W)``.
    """
    choose("solver", solver, SOLVERS)
    check_volume("phi", phi, channels=3)
    check_same_shape("velocity", velocity, "phi", phi)
    return SOLVERS[solver](phi, velocity, DEFAULT_STEPS[solver] if steps is None else steps)
