"""Advection by a stationary velocity: analytic flows, inverses, agreement, gradients."""

from __future__ import annotations

import pytest
import torch

from avsm.maps import affine_map, compose, identity_map, jacobian_determinant, spacing
from avsm.vsvf import SOLVERS, MultiGaussian, advance, exponential

SHAPE = (17, 21, 25)
BOTH = pytest.mark.parametrize("solver", sorted(SOLVERS))


def identity(shape: tuple[int, int, int] = SHAPE) -> torch.Tensor:
    return identity_map(shape, torch.zeros(1, dtype=torch.float64))


def smooth_velocity(voxels: float, shape: tuple[int, int, int] = SHAPE) -> torch.Tensor:
    """A smoothed random momentum whose largest component is so many voxels."""
    generator = torch.Generator().manual_seed(0)
    momentum = torch.randn(1, 3, *shape, generator=generator, dtype=torch.float64)
    velocity = MultiGaussian(sigmas=(0.15,), weights=(1.0,))(momentum)
    voxel = torch.tensor(spacing(shape), dtype=torch.float64)[:, None, None, None]
    return velocity * (voxels / (velocity / voxel).abs().max())


@BOTH
def test_constant_velocity_translates_any_affine_map(solver: str) -> None:
    shift = torch.tensor([0.2, -0.1, 0.3], dtype=torch.float64)
    velocity = shift[None, :, None, None, None].expand(1, 3, *SHAPE)
    matrix = torch.eye(3, dtype=torch.float64)[None] + 0.1
    start = affine_map(matrix, torch.full((1, 3), 0.05, dtype=torch.float64), SHAPE)
    expected = affine_map(matrix, 0.05 - (matrix @ shift[:, None])[..., 0], SHAPE)  # A (x - v) + b
    torch.testing.assert_close(advance(start, velocity, solver), expected)


@BOTH
def test_rotating_velocity_rotates(solver: str) -> None:
    angle = 0.5
    generator = torch.zeros(1, 3, 3, dtype=torch.float64)
    generator[0, 1, 2], generator[0, 2, 1] = -angle, angle
    velocity = affine_map(generator, torch.zeros(1, 3, dtype=torch.float64), SHAPE)
    result = advance(identity(), velocity, solver)
    rotation = torch.linalg.matrix_exp(-generator)
    expected = affine_map(rotation, torch.zeros(1, 3, dtype=torch.float64), SHAPE)
    # Trajectories stay in the volume, and so do the cells that are interpolated on the way.
    inside = identity()[:, 1:].norm(dim=1, keepdim=True) < 0.8
    assert inside.sum() > 3000
    assert ((result - expected).abs() * inside).max() < 1e-4


def test_solvers_agree_on_a_smooth_velocity() -> None:
    velocity = smooth_velocity(voxels=2)
    squaring, rk4 = (advance(identity(), velocity, solver) for solver in ("squaring", "rk4"))
    voxel = torch.tensor(spacing(SHAPE), dtype=torch.float64)[:, None, None, None]
    inside = (..., slice(3, -3), slice(3, -3), slice(3, -3))
    assert ((squaring - rk4) / voxel)[inside].abs().max() < 0.1  # of displacements of two voxels


@BOTH
def test_map_flows_the_way_of_the_equation(solver: str) -> None:
    velocity = torch.zeros(1, 3, *SHAPE, dtype=torch.float64)
    velocity[:, 2] = 0.1
    assert (advance(identity(), velocity, solver) - identity())[:, 2].max() < 0  # upstream


def test_flows_of_opposite_velocities_are_inverse() -> None:
    velocity = smooth_velocity(voxels=2)
    there, back = (identity() + exponential(v) for v in (velocity, -velocity))
    voxel = torch.tensor(spacing(SHAPE), dtype=torch.float64)[:, None, None, None]
    residual = ((compose(there, back) - identity()) / voxel).abs()
    assert residual[..., 3:-3, 3:-3, 3:-3].max() < 0.05


def test_squaring_stays_finite_and_without_folds_where_it_should() -> None:
    result = advance(identity(), smooth_velocity(voxels=8))
    assert result.isfinite().all()
    assert jacobian_determinant(result).min() > 0


@BOTH
def test_advancing_twice_equals_advancing_by_twice_the_velocity(solver: str) -> None:
    velocity = smooth_velocity(voxels=1)
    twice = advance(advance(identity(), velocity, solver), velocity, solver)
    voxel = torch.tensor(spacing(SHAPE), dtype=torch.float64)[:, None, None, None]
    difference = ((twice - advance(identity(), 2 * velocity, solver)) / voxel).abs()
    assert difference[..., 3:-3, 3:-3, 3:-3].max() < 0.05


@pytest.mark.parametrize(("solver", "steps"), [("squaring", 3), ("rk4", 2)])
def test_gradients(solver: str, steps: int) -> None:
    torch.manual_seed(0)
    shape = (3, 4, 4)
    phi = (identity(shape) + 0.1 * torch.randn(1, 3, *shape).double()).requires_grad_()
    velocity = (0.3 * torch.randn(1, 3, *shape, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(lambda p, v: advance(p, v, solver, steps), (phi, velocity))


def test_wrong_arguments_are_refused() -> None:
    phi = torch.zeros(1, 3, 8, 8, 8)
    with pytest.raises(ValueError, match=r"velocity: expected the shape of phi.*found \(1, 3, 4"):
        advance(phi, torch.zeros(1, 3, 4, 8, 8))
    with pytest.raises(ValueError, match="solver: expected one of squaring, rk4, found 'euler'"):
        advance(phi, phi, "euler")
