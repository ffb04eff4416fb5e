"""Both networks: sizes, start at the identity, recurrence, odd image sizes, half precision."""

from __future__ import annotations

import pytest
import torch

from avsm.affine import Affine, affine_from_residual, change_frame, compose_affine
from avsm.affine_net import AffineNet, AffineNetConfig, Stage
from avsm.maps import affine_map, identity_map, warp
from avsm.momentum import MomentumNet, MomentumNetConfig
from avsm.reduction import frame_scale, reduce

TINY_AFFINE = AffineNetConfig(
    features=4, trunk=(Stage(8, pool=True), Stage(4, stride=2)), grid=(2, 3, 3), hidden=8
)
TINY_MOMENTUM = MomentumNetConfig(width=2)


def parameters(network: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def images(shape: tuple[int, int, int], batch: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    fixed, moving = torch.rand(2, batch, 1, *shape, generator=generator)
    return fixed, moving


def unsettle(network: torch.nn.Module, size: float = 0.1) -> None:
    """Give a zero-initialised last layer some weight."""
    torch.manual_seed(1)
    last = network.last if isinstance(network, AffineNet) else network.last[-1]
    torch.nn.init.normal_(last.weight, std=size)
    torch.nn.init.normal_(last.bias, std=size)


def test_paper_networks_have_the_authors_number_of_parameters() -> None:
    assert parameters(AffineNet()) == 147_920
    assert parameters(MomentumNet()) == 5_938_515


@pytest.mark.parametrize("reduction", [1, 2])
def test_affine_network_starts_at_the_identity(reduction: int) -> None:
    config = AffineNetConfig(**{**TINY_AFFINE.__dict__, "reduction": reduction})
    affines = AffineNet(config)(*images((12, 18, 14), batch=2), steps=3)
    assert len(affines) == 3
    for affine in affines:
        assert torch.equal(affine.matrix, torch.eye(3).expand(2, 3, 3))
        assert torch.equal(affine.offset, torch.zeros(2, 3))


def test_affine_steps_share_weights_and_compose_as_equation_1() -> None:
    network = AffineNet(TINY_AFFINE)
    unsettle(network)
    fixed, moving = images((12, 18, 14))
    first, second = network(fixed, moving, steps=2)
    warped = warp(moving, first.map(fixed.shape[2:]))
    (update,) = network(fixed, warped, steps=1)
    expected = compose_affine(update, first)
    torch.testing.assert_close(second.matrix, expected.matrix)
    torch.testing.assert_close(second.offset, expected.offset)


def test_affine_network_takes_any_size_and_gradients_reach_all_weights() -> None:
    network = AffineNet(TINY_AFFINE)
    unsettle(network)
    for shape in ((12, 18, 14), (16, 16, 31), (9, 9, 9)):
        affine = network(*images(shape), steps=2)[-1]
        assert affine.matrix.shape == (1, 3, 3)
    (affine.matrix.square().sum() + affine.offset.sum()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


# Where blocks cut voxels, each part counts as the whole voxel's centre: ramps come out bent.
@pytest.mark.parametrize(
    ("shape", "atol"), [((24, 32, 40), 1e-7), ((23, 33, 41), 4e-4)], ids=["even", "odd"]
)
def test_affine_parameters_mean_the_same_on_reduced_images(
    shape: tuple[int, int, int], atol: float
) -> None:
    """Warping and then averaging equals averaging and then warping in the reduced frame."""
    z, y, x = identity_map(shape, torch.zeros(1, dtype=torch.float64))[0]
    image = (2 + z + 0.5 * y - 0.7 * x)[None, None]  # linear: both ways are exact
    affine = affine_from_residual(0.05 * torch.randn(1, 12, dtype=torch.float64))
    small, one = reduce(image, 4), reduce(warp(image, affine.map(shape)), 4)
    scale = frame_scale(shape, 4)
    other = warp(small, change_frame(affine, scale).map(small.shape[2:]))
    inside = (..., slice(1, -1), slice(1, -1), slice(1, -1))
    torch.testing.assert_close(one[inside], other[inside], atol=atol, rtol=1e-7)


def test_affine_parameters_are_exact_under_autocast() -> None:
    network = AffineNet(TINY_AFFINE)
    with torch.no_grad():
        network.last.bias.fill_(0.123456)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        affine = network(*images((12, 18, 14)))[-1]
    torch.testing.assert_close(affine.offset, torch.full((1, 3), 0.123456))


@pytest.mark.parametrize("first_level", [True, False])
@pytest.mark.parametrize("shape", [(16, 32, 16), (20, 33, 17), (5, 6, 7)])
def test_momentum_has_half_the_size_whatever_the_size(shape, first_level: bool) -> None:
    network = MomentumNet(MomentumNetConfig(width=2, first_level=first_level))
    fixed, moving = images(shape, batch=2)
    momentum = network(moving, fixed)
    assert momentum.shape == (2, 3, *((n + 1) // 2 for n in shape))
    assert momentum.abs().max() == 0
    unsettle(network)
    network(moving, fixed).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


def test_sizes_are_filled_up_by_repeating_the_last_voxels() -> None:
    network = MomentumNet(TINY_MOMENTUM)
    unsettle(network)
    fixed, moving = images((16, 16, 20))
    index = torch.arange(32).clamp_max(19)
    by_hand = network(moving[..., index], fixed[..., index])[..., :10]
    torch.testing.assert_close(network(moving, fixed), by_hand)


def test_momentum_is_single_precision_under_autocast() -> None:
    network = MomentumNet(TINY_MOMENTUM).to(memory_format=torch.channels_last_3d)
    unsettle(network)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        momentum = network(*images((16, 20, 16)))
    assert momentum.dtype == torch.float32
    assert momentum.isfinite().all()


def test_wrong_arguments_are_refused() -> None:
    fixed, moving = images((8, 8, 8))
    with pytest.raises(ValueError, match="moving: expected the shape of fixed"):
        AffineNet(TINY_AFFINE)(fixed, moving[..., :7])
    with pytest.raises(ValueError, match="steps: expected at least 1, found 0"):
        AffineNet(TINY_AFFINE)(fixed, moving, steps=0)
    with pytest.raises(ValueError, match=r"fixed: expected shape \(B, 1, D, H, W\)"):
        MomentumNet(TINY_MOMENTUM)(moving[:, 0], fixed[:, 0])
    with pytest.raises(ValueError, match=r"\(B, 3, 3\) and \(B, 3\)"):
        Affine(torch.zeros(1, 3, 3), torch.zeros(3)).map((8, 8, 8))
    assert affine_map(torch.eye(3)[None], torch.zeros(1, 3), (2, 2, 2)).shape == (1, 3, 2, 2, 2)
