"""Smoothing: analytic Gaussians, constants, symmetry, boundaries, gradients."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from avsm.maps import identity_map
from avsm.vsvf import MultiGaussian, kept_modes

LIKE = torch.zeros(1, dtype=torch.float64)


def gaussian(shape: tuple[int, int, int], sigma: float) -> torch.Tensor:
    """Sample a Gaussian about the centre of the unit cube, without its constant."""
    squared = (identity_map(shape, LIKE) / 2).square().sum(dim=1, keepdim=True)
    return torch.exp(-squared / (2 * sigma**2)) / sigma**3


def smooth(field: torch.Tensor, sigmas: Sequence[float], weights: Sequence[float]) -> torch.Tensor:
    return MultiGaussian(sigmas, weights)(field)


def test_smoothed_gaussian_is_a_wider_gaussian() -> None:
    shape = (41, 51, 61)
    smoothed = smooth(gaussian(shape, 0.06), sigmas=[0.08], weights=[1])
    expected = gaussian(shape, 0.10)  # .06^2 + .08^2 = .1^2
    assert (
        (smoothed - expected).abs().max() / expected.max()
    ) < 1e-4  # cut by the faces at 5 sigma


def test_sum_of_gaussians_is_weighted() -> None:
    shape = (31, 31, 31)
    smoothed = smooth(gaussian(shape, 0.05), sigmas=[0.05, 0.1], weights=[0.25, 0.75])
    parts = [smooth(gaussian(shape, 0.05), [sigma], [1.0]) for sigma in (0.05, 0.1)]
    torch.testing.assert_close(smoothed, 0.25 * parts[0] + 0.75 * parts[1])


def test_agrees_with_a_dense_reflected_convolution() -> None:
    n, sigma = 9, 0.2
    impulse = torch.eye(n, dtype=torch.float64)[:, None, :, None, None].expand(n, 1, n, 4, 4)
    smoothed = smooth(impulse, [sigma], [1.0])[:, 0, :, 0, 0]
    offsets = torch.arange(-60, 61, dtype=torch.float64)
    kernel = torch.exp(-0.5 * (offsets / (sigma * (n - 1))) ** 2)
    kernel /= kernel.sum()
    expected = torch.zeros(n, n, dtype=torch.float64)
    for row in range(n):
        for offset, weight in zip(offsets.int().tolist(), kernel, strict=True):
            place = (row + offset) % (2 * n)
            expected[row, min(place, 2 * n - 1 - place)] += weight
    torch.testing.assert_close(smoothed, expected)


def test_constants_are_kept_up_to_the_sum_of_weights() -> None:
    momentum = torch.full((1, 3, 7, 8, 9), 2.0, dtype=torch.float64)
    torch.testing.assert_close(MultiGaussian()(momentum), momentum)


def test_nothing_wraps_around_to_the_opposite_face() -> None:
    momentum = torch.zeros(1, 3, 32, 32, 32, dtype=torch.float64)
    momentum[:, :, 0, 16, 16] = 1
    profile = smooth(momentum, [0.1], [1.0])[0, 0, :, 16, 16]
    assert (profile.diff() < 1e-12).all()  # falls all the way
    assert profile[-1].abs() < 1e-12


def test_symmetric_and_positive() -> None:
    torch.manual_seed(0)
    a, b = torch.randn(2, 1, 3, 10, 12, 14, dtype=torch.float64)
    operator = MultiGaussian()
    torch.testing.assert_close((a * operator(b)).sum(), (operator(a) * b).sum())
    assert (a * operator(a)).sum() > 0


def test_left_out_modes_do_not_show_in_single_precision() -> None:
    torch.manual_seed(0)
    momentum = torch.randn(1, 3, 40, 48, 56)
    assert kept_modes(56, 0.05, torch.finfo(torch.float32).eps / 4) < 56
    exact = MultiGaussian()(momentum.double())
    error = (MultiGaussian()(momentum) - exact).abs().max() / exact.abs().max()
    assert error < 2e-6


def test_gradient() -> None:
    field = torch.randn(1, 2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: smooth(x, (0.1, 0.3), (0.4, 0.6)), field)


@pytest.mark.parametrize(
    ("sigmas", "weights", "message"),
    [
        ((0.1,), (0.5, 0.5), "found 1 and 2"),
        ((0.0,), (1.0,), "positive widths"),
        ((), (), "found 0"),
    ],
)
def test_wrong_kernels_are_refused(sigmas, weights, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MultiGaussian(sigmas, weights)


def test_a_momentum_for_another_operator_has_the_same_velocity() -> None:
    coarse, fine = MultiGaussian(), MultiGaussian((0.03, 0.1), (0.4, 0.6))
    momentum = torch.randn(1, 3, 20, 24, 17, dtype=torch.float64)
    other = fine.momentum_of(momentum, coarse)
    torch.testing.assert_close(fine(other), coarse(momentum), atol=1e-12, rtol=1e-9)
    assert coarse.momentum_of(momentum, MultiGaussian()) is momentum
    with pytest.raises(ValueError, match=r"other: expected widths of at least 0\.05, found"):
        coarse.momentum_of(momentum, fine)
