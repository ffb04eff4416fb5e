"""Descent over momenta: the gradient in the metric of the regulariser, and L-BFGS."""

from __future__ import annotations

import torch

from avsm.descent import Objective, descend_lbfgs
from avsm.vsvf import MultiGaussian


def test_gradient_in_the_metric_of_the_regulariser() -> None:
    """K times it is the gradient that autograd finds through K."""
    smoother = MultiGaussian()
    momentum = torch.randn(2, 3, 6, 7, 8, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(2, 3, 6, 7, 8, dtype=torch.float64)

    def data(velocity: torch.Tensor) -> torch.Tensor:
        return (weights * velocity.sin()).sum()

    objective = Objective(data, smoother, weight=3.0)
    velocity = smoother(momentum)
    energy = 3 * (momentum * velocity).sum(dim=1).mean(dim=(1, 2, 3)).sum() / 4
    (expected,) = torch.autograd.grad(data(velocity) + energy, momentum)
    found = objective(momentum, velocity)
    torch.testing.assert_close(smoother(found.gradient), expected)


def test_lbfgs_solves_a_quadratic_problem() -> None:
    """Least squares with the energy, whose solution is known for each cosine mode."""
    smoother = MultiGaussian()
    wanted = smoother(torch.randn(1, 3, 8, 9, 10, dtype=torch.float64))
    weight = 0.5

    def data(velocity: torch.Tensor) -> torch.Tensor:
        return 50 * (velocity - wanted).square().mean()

    objective = Objective(data, smoother, weight)
    start = torch.zeros_like(wanted)
    momentum = descend_lbfgs(objective, start, 60, lambda _i, _l: None, first_step=0.1)
    gradient = objective(momentum, smoother(momentum)).gradient
    first = objective(start, start).gradient
    assert gradient.abs().max() < 1e-6 * first.abs().max()
