"""Image pyramids: places stay where they are, nothing aliases, windows of the levels."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from avsm.grid import resample_by_area, whole_edges
from avsm.losses import level_windows
from avsm.maps import affine_from_residual, downsample, identity_map, scaled_shape, warp
from avsm.networks import average_to

# Rotation, scale, shear and shift: up to 4 voxels.
TRUE = affine_from_residual(
    torch.tensor([[0.06, 0.10, 0.0, -0.12, -0.05, 0.03, 0.0, 0.0, 0.08, 0.12, -0.10, 0.08]])
)


def blob(
    shape: tuple[int, int, int], centre: tuple[float, float, float], width: float = 0.15
) -> torch.Tensor:
    place = torch.tensor(centre).reshape(1, 3, 1, 1, 1)
    distance = (identity_map(shape, torch.zeros(1)) - place).square().sum(dim=1, keepdim=True)
    return torch.exp(-distance / (2 * width**2))


def _centre_of_mass(image: torch.Tensor) -> torch.Tensor:
    mass = image.sum(dim=(2, 3, 4))
    return (identity_map(image.shape[2:], image) * image).sum(dim=(2, 3, 4)) / mass


@pytest.mark.parametrize("scale", [0.25, 0.4, 0.5, 0.9])
def test_place_of_a_blob_is_the_same_on_every_level(scale: float) -> None:
    image = blob((41, 64, 52), centre=(0.3, -0.2, 0.1))
    small = downsample(image, scale)
    assert small.shape[2:] == scaled_shape((41, 64, 52), scale)
    expected = torch.tensor([[0.3, -0.2, 0.1]])
    torch.testing.assert_close(_centre_of_mass(small), expected, atol=2e-3, rtol=0)


def test_pyramid_keeps_constants_and_drops_what_would_alias() -> None:
    constant = torch.full((1, 1, 20, 24, 22), 0.7)
    torch.testing.assert_close(downsample(constant, 0.25), torch.full((1, 1, 5, 6, 6), 0.7))
    stripes = (torch.arange(40) % 2).float()[:, None, None].expand(1, 1, 40, 40, 40)
    inside = downsample(stripes, 0.5)[:, :, 1:-1]
    torch.testing.assert_close(inside, torch.full_like(inside, 0.5), atol=0.02, rtol=0)
    assert downsample(stripes, 1.0).equal(stripes)


def test_pyramid_commutes_with_an_affine_map() -> None:
    """Half a coarse voxel of misplacement would change the warped blob by up to .10."""
    image = blob((48, 48, 48), centre=(0.1, -0.2, 0.15), width=0.25)
    first = downsample(warp(image, TRUE.map((48, 48, 48))), 0.5)
    second = warp(downsample(image, 0.5), TRUE.map((24, 24, 24)))
    assert (first - second).abs().max() < 0.015


def test_averages_over_blocks() -> None:
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(2, 3, 12, 10, 9, generator=generator)
    torch.testing.assert_close(average_to(image, (4, 5, 9)), F.avg_pool3d(image, (3, 2, 1)))
    assert average_to(image, (12, 10, 9)) is image
    cut = average_to(image, (5, 4, 2))  # blocks of 2.4, 2.5 and 4.5 voxels
    torch.testing.assert_close(cut.mean(dim=(2, 3, 4)), image.mean(dim=(2, 3, 4)))
    for shape in ((5, 4, 2), (13, 7, 20)):
        expected = torch.from_numpy(
            resample_by_area(image[1, 2].numpy(), whole_edges((12, 10, 9), shape))
        )
        torch.testing.assert_close(average_to(image, shape)[1, 2], expected)


def test_windows_of_the_levels() -> None:
    fine = level_windows((80, 192, 192), 1.0, "paper")
    assert [(w.weight, w.size, w.dilation) for w in fine] == [(0.3, 20, 2), (0.7, 40, 2)]
    (coarse,) = level_windows((40, 96, 96), 0.5, "paper")
    assert (coarse.weight, coarse.size, coarse.dilation, coarse.stride) == (1.0, 20, 2, 5)
    (dense,) = level_windows((40, 96, 96), 0.5, "dense")
    assert (dense.extent, dense.dilation) == (coarse.extent, 1)
    small, *others = level_windows((40, 96, 96), 1.0, "local")
    assert (small.weight, small.extent, small.stride) == (0.5, 9, 2)
    assert [w.weight for w in others] == [0.15, 0.35]
    assert level_windows((6, 9, 9), 0.25, "local")[0].extent == 6
    expected = "windows: expected one of paper, dense, local, found 'wide'"
    with pytest.raises(ValueError, match=expected):
        level_windows((80, 192, 192), 1.0, "wide")


@pytest.mark.parametrize("scale", [0, -0.5, 2])
def test_scale_out_of_range(scale: float) -> None:
    with pytest.raises(ValueError, match=f"scale: expected .* found {scale}"):
        scaled_shape((24, 32, 28), scale)
