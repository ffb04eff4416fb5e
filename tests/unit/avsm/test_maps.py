"""Maps: direction and order of axes, composition, resolution, Jacobians, refusals."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.ndimage
import torch

from avsm.maps import (
    affine_map,
    affine_part,
    compose,
    half_shape,
    identity_map,
    jacobian_determinant,
    resize,
    self_compose,
    warp,
)

SHAPE = (6, 7, 9)
LIKE = torch.zeros(1, dtype=torch.float64)


def random_affine(seed: int = 0, size: float = 0.1) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    noise = size * torch.randn(2, 3, 4, generator=generator, dtype=torch.float64)
    return torch.eye(3, dtype=torch.float64) + noise[..., :3], noise[..., 3]


def test_identity_runs_from_minus_one_to_one_along_each_array_axis() -> None:
    identity = identity_map(SHAPE, LIKE)
    assert identity.shape == (1, 3, *SHAPE)
    assert identity[0, :, 0, 0, 0].tolist() == [-1, -1, -1]
    assert identity[0, :, -1, 0, 0].tolist() == [1, -1, -1]
    assert identity[0, :, 0, -1, 0].tolist() == [-1, 1, -1]
    assert identity[0, :, 0, 0, -1].tolist() == [-1, -1, 1]


def test_identity_warp_returns_the_image_exactly() -> None:
    image = torch.rand(2, 1, *SHAPE)
    identity = identity_map(SHAPE, image).expand(2, -1, -1, -1, -1)
    torch.testing.assert_close(warp(image, identity), image, rtol=0, atol=1e-6)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_map_plus_one_voxel_reads_the_next_voxel(axis: int) -> None:
    image = torch.rand(1, 1, *SHAPE, dtype=torch.float64)
    phi = identity_map(SHAPE, image)
    phi[:, axis] += 2 / (SHAPE[axis] - 1)
    warped = warp(image, phi)
    n = SHAPE[axis]
    expected = image.narrow(axis + 2, 1, n - 1)
    torch.testing.assert_close(warped.narrow(axis + 2, 0, n - 1), expected)
    assert warped.narrow(axis + 2, n - 1, 1).abs().max() < 1e-12  # outside reads black


@pytest.mark.parametrize(("interpolation", "order"), [("linear", 1), ("nearest", 0)])
def test_warp_agrees_with_scipy(interpolation: str, order: int) -> None:
    generator = np.random.default_rng(0)
    image = generator.random(SHAPE)
    target = (5, 8, 6)  # the moving image may have a grid of its own
    phi = generator.uniform(-1.3, 1.3, (3, *target))
    voxels = [(phi[c] + 1) / 2 * (SHAPE[c] - 1) for c in range(3)]
    expected = scipy.ndimage.map_coordinates(image, voxels, order=order, mode="grid-constant")
    warped = warp(torch.tensor(image)[None, None], torch.tensor(phi)[None], interpolation)
    np.testing.assert_allclose(warped[0, 0].numpy(), expected, atol=1e-12)


def test_affine_map_is_the_matrix_product() -> None:
    matrix, offset = random_affine()
    points = identity_map(SHAPE, LIKE)[0].flatten(1)
    expected = (matrix @ points + offset[..., None]).reshape(2, 3, *SHAPE)
    torch.testing.assert_close(affine_map(matrix, offset, SHAPE), expected)


def test_affine_maps_compose_exactly_even_outside_of_the_volume() -> None:
    (a, b), (c, d) = random_affine(0, size=0.3), random_affine(1, size=0.3)
    inner = affine_map(c, d, SHAPE)
    assert inner.abs().max() > 1.3
    composed = compose(affine_map(a, b, SHAPE), inner)
    expected = affine_map(a @ c, (a @ d[..., None])[..., 0] + b, SHAPE)
    torch.testing.assert_close(composed, expected)


def test_affine_part_is_the_least_squares_fit() -> None:
    phi = torch.rand(2, 3, *SHAPE, dtype=torch.float64)
    points = identity_map(SHAPE, LIKE)[0].flatten(1)
    design = torch.cat([points, torch.ones_like(points[:1])]).T
    solution = torch.linalg.lstsq(design.expand(2, -1, -1), phi.flatten(2).mT).solution.mT
    matrix, offset = affine_part(phi)
    torch.testing.assert_close(matrix, solution[..., :3])
    torch.testing.assert_close(offset, solution[..., 3])


def test_composition_warps_as_two_warps_in_the_right_order() -> None:
    image = torch.zeros(1, 1, 9, 9, 9, dtype=torch.float64)
    image[0, 0, 4, 4, 6] = 1
    outer, inner = (identity_map(image.shape[2:], image) for _ in range(2))
    outer[:, 2] += 0.5  # two voxels along x
    inner[:, 1] += 0.25 * (inner[:, 2] > 0.1)  # one voxel along y in one half only
    expected = warp(warp(image, outer), inner)  # image(outer(inner(x)))
    torch.testing.assert_close(warp(image, compose(outer, inner)), expected)


def test_self_composition_repeats_the_map() -> None:
    displacement = torch.zeros(1, 3, *SHAPE, dtype=torch.float64)
    displacement[:, 1] = 0.01
    assert self_compose(displacement, 4)[:, 1].sub(0.16).abs().max() < 1e-12


def test_resizing_keeps_affine_maps() -> None:
    matrix, offset = random_affine()
    small = affine_map(matrix, offset, half_shape(SHAPE))
    torch.testing.assert_close(resize(small, SHAPE), affine_map(matrix, offset, SHAPE))


def test_half_shape_rounds_up() -> None:
    assert half_shape((80, 193, 7)) == (40, 97, 4)


def test_jacobian_of_an_affine_map_is_its_determinant() -> None:
    matrix, offset = random_affine(size=0.3)
    determinant = jacobian_determinant(affine_map(matrix, offset, SHAPE))
    expected = torch.linalg.det(matrix)[:, None, None, None].expand_as(determinant)
    torch.testing.assert_close(determinant, expected)


def test_jacobian_counts_a_fold_that_the_diagonal_misses() -> None:
    swap = torch.tensor([[[0.1, 1.0, 0.0], [1.0, 0.1, 0.0], [0.0, 0.0, 1.0]]])
    assert (jacobian_determinant(affine_map(swap, torch.zeros(1, 3), SHAPE)) < 0).all()


def test_cached_axes_of_inference_serve_in_training() -> None:
    shape = (3, 4, 11)
    with torch.inference_mode():
        identity_map(shape, torch.zeros(1))
    matrix = torch.eye(3)[None].requires_grad_()
    affine_map(matrix, torch.zeros(1, 3), shape).sum().backward()
    assert matrix.grad is not None


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: warp(torch.zeros(1, 8, 8, 8), torch.zeros(1, 3, 8, 8, 8)), r"image.*\(1, 8, 8, 8"),
        (
            lambda: warp(torch.zeros(2, 1, 8, 8, 8), torch.zeros(1, 3, 8, 8, 8)),
            "batch size.* 1,.*2",
        ),
        (lambda: warp(torch.zeros(1, 1, 8, 8, 8), torch.zeros(1, 2, 8, 8, 8)), "phi.*3, D, H, W"),
        (lambda: affine_map(torch.eye(3), torch.zeros(3), SHAPE), r"\(B, 3, 3\)"),
        (
            lambda: warp(torch.zeros(1, 1, 8, 8, 8), torch.zeros(1, 3, 8, 8, 8), "cubic"),
            "linear, nearest, found 'cubic'",
        ),
    ],
)
def test_wrong_arguments_are_refused_with_what_was_found(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
