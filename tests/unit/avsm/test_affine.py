"""Affine parameters: Eq. 1 against homogeneous matrices, Eq. 4, 5 and 13."""

from __future__ import annotations

import pytest
import torch

from avsm.losses import affine_asymmetry, affine_deviation, affine_regularisation_weight
from avsm.maps import Affine, affine_from_residual, compose_affine, identity_affine, invert_affine

SINGLE = {"rtol": 2**-24, "atol": 0}  # what rounding to float32 changes at most


def random_parameters(seed: int) -> Affine:
    generator = torch.Generator().manual_seed(seed)
    return affine_from_residual(0.2 * torch.randn(3, 12, generator=generator, dtype=torch.float64))


def homogeneous(affine: Affine) -> torch.Tensor:
    last = torch.tensor([0.0, 0, 0, 1], dtype=torch.float64).expand(len(affine.matrix), 1, 4)
    return torch.cat([torch.cat([affine.matrix, affine.offset[..., None]], dim=2), last], dim=1)


def test_composition_is_the_product_of_homogeneous_matrices() -> None:
    update, current = random_parameters(0), random_parameters(1)
    composed = homogeneous(compose_affine(update, current))
    torch.testing.assert_close(composed, homogeneous(update) @ homogeneous(current))


def test_residual_zero_is_the_identity_and_order_is_rows_then_offset() -> None:
    residual = torch.zeros(1, 12)
    residual[0, 1], residual[0, 9] = 0.5, 0.25
    affine = affine_from_residual(residual)
    assert affine.matrix[0].tolist() == [[1, 0.5, 0], [0, 1, 0], [0, 0, 1]]
    assert affine.offset[0].tolist() == [0.25, 0, 0]


def test_inverse_is_that_of_the_homogeneous_matrix() -> None:
    affine = random_parameters(0)
    inverse = homogeneous(invert_affine(affine))
    torch.testing.assert_close(inverse, torch.linalg.inv(homogeneous(affine)))


def test_parameters_take_the_dtype_of_a_tensor() -> None:
    affine = random_parameters(0).to(torch.zeros(1))
    assert affine.matrix.dtype == affine.offset.dtype == torch.float32
    torch.testing.assert_close(affine.matrix.double(), random_parameters(0).matrix, **SINGLE)


def test_deviation_is_the_frobenius_and_euclidean_norm() -> None:
    residual = torch.arange(12.0)[None]
    assert affine_deviation(affine_from_residual(residual)).tolist() == [506.0]  # 0 + 1 + 4 + ...


def test_asymmetry_is_zero_for_the_inverse_and_follows_the_equation() -> None:
    forward, backward = random_parameters(0), random_parameters(1)
    assert affine_asymmetry(forward, invert_affine(forward)).abs().max() < 1e-12
    matrix = backward.matrix @ forward.matrix - torch.eye(3, dtype=torch.float64)
    offset = (backward.matrix @ forward.offset[..., None])[..., 0] + backward.offset
    expected = (matrix**2).sum((1, 2)) + (offset**2).sum(1)
    torch.testing.assert_close(affine_asymmetry(forward, backward), expected)


def test_identity_has_no_deviation() -> None:
    assert affine_deviation(identity_affine(2, torch.zeros(1))).tolist() == [0, 0]


@pytest.mark.parametrize(
    ("epoch", "weight", "digits"),
    [(0, 8.0, 1), (6, 4.7, 1), (12, 1.66, 2), (18, 0.43, 2), (24, 0.1, 2)],
)
def test_factor_of_equation_13(epoch: int, weight: float, digits: int) -> None:
    assert round(affine_regularisation_weight(epoch), digits) == weight


def test_factor_fades_without_overflow() -> None:
    assert affine_regularisation_weight(100_000) == 0


def test_wrong_residual_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(B, 12\), found \(2, 9\)"):
        affine_from_residual(torch.zeros(2, 9))
