"""Both networks: sizes, halvings, start, recurrence, scales of the images, half precision."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from avsm.errors import UserError
from avsm.maps import (
    Affine,
    affine_from_residual,
    affine_map,
    compose_affine,
    downsample,
    half_shape,
    warp,
)
from avsm.networks import (
    AffineNet,
    AffineNetConfig,
    MomentumNet,
    MomentumNetConfig,
    halvings_at,
    last_grid,
)

TINY_MOMENTUM = MomentumNetConfig(width=2)
HALVINGS = ["pool", "stride", None, "pool", "stride", None, "stride"]  # the paper's five
PRECISIONS = pytest.mark.parametrize("precision", ["float32", "bfloat16"])


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def images(shape: tuple[int, int, int], batch: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    fixed, moving = torch.rand(2, batch, 1, *shape, generator=generator)
    return fixed, moving


def unsettled(network: nn.Module, size: float = 0.1) -> nn.Module:
    """Give a zero-initialised last layer some weight, and all layers seeded ones."""
    torch.manual_seed(1)
    for layer in network.modules():
        if isinstance(layer, nn.Conv3d | nn.ConvTranspose3d | nn.Linear):
            layer.reset_parameters()
    last = network.last if isinstance(network, AffineNet) else network.last[-1]
    nn.init.normal_(last.weight, std=size)
    nn.init.normal_(last.bias, std=size)
    return network


def outputs(layer: nn.Module) -> list[torch.Tensor]:
    """Record what a layer gives."""
    found: list[torch.Tensor] = []
    layer.register_forward_hook(lambda _layer, _inputs, output: found.append(output))
    return found


def test_paper_networks_have_the_authors_number_of_parameters() -> None:
    assert parameters(AffineNet()) == 147_920
    assert parameters(MomentumNet()) == 5_938_515


# The affine network


@pytest.mark.parametrize(
    ("shape", "scale", "grid", "kept"),
    [
        ((80, 192, 192), 1.0, (3, 6, 6), 7),  # all five
        ((80, 192, 192), 0.5, (3, 6, 6), 5),  # four
        ((40, 96, 96), 1.0, (3, 6, 6), 5),
        ((48, 48, 20), 1.0, (6, 6, 3), 4),  # three
        ((192, 192, 80), 1.0, (6, 6, 3), 7),
    ],
)
def test_halvings_leave_the_papers_last_grid(
    monkeypatch: pytest.MonkeyPatch,
    shape: tuple[int, int, int],
    scale: float,
    grid: tuple[int, int, int],
    kept: int,
) -> None:
    """Nothing is left to average. Shapes alone are computed, of one set of weights."""
    monkeypatch.setattr("avsm.networks._takes_slow_path", lambda image: False)
    network = AffineNet(AffineNetConfig(scale=scale)).to("meta")
    features, hidden = outputs(network.trunk[-1]), outputs(network.hidden)
    fixed, moving = torch.empty(2, 1, 1, *shape, device="meta")
    network(fixed, moving)
    assert [tuple(f.shape) for f in features] == [(1, 4, *grid)]
    assert hidden[0].shape == (1, 32)
    assert last_grid(shape) == grid
    size = tuple(round(n * scale) for n in shape)
    assert halvings_at(size, grid) == HALVINGS[:kept] + [None] * (len(HALVINGS) - kept)


def test_small_images_are_not_halved() -> None:
    assert last_grid((5, 7, 4)) == (6, 6, 3)
    assert not any(halvings_at((5, 7, 4), (6, 6, 3)))
    assert halvings_at((11, 11, 5), (6, 6, 3))[:2] == ["pool", None]  # odd sizes are rounded up
    assert not any(halvings_at((11, 10, 5), (6, 6, 3)))
    assert not any(halvings_at((11, 11, 4), (6, 6, 3)))


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_affine_network_starts_at_the_identity(scale: float) -> None:
    network = AffineNet(AffineNetConfig(scale=scale))
    affines = network(*images((12, 18, 14), batch=2), steps=3)
    assert len(affines) == 3
    for affine in affines:
        assert torch.equal(affine.matrix, torch.eye(3).expand(2, 3, 3))
        assert torch.equal(affine.offset, torch.zeros(2, 3))


@pytest.mark.parametrize("norm", [False, True])
def test_affine_steps_share_weights_and_compose_as_equation_1(norm: bool) -> None:
    network = unsettled(AffineNet(AffineNetConfig(norm=norm), "float32"))
    fixed, moving = images((12, 18, 14))
    first, second = network(fixed, moving, steps=2)
    assert (first.matrix - torch.eye(3)).abs().max() > 0.01
    warped = warp(moving, first.map(fixed.shape[2:]))
    (update,) = network(fixed, warped)
    expected = compose_affine(update, first)
    torch.testing.assert_close(second.matrix, expected.matrix)
    torch.testing.assert_close(second.offset, expected.offset)
    (refined,) = network(fixed, moving, start=first)
    torch.testing.assert_close(refined.matrix, second.matrix)
    torch.testing.assert_close(refined.offset, second.offset)


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("shape", [(9, 10, 13), (6, 12, 13)], ids=["as they are", "pooled"])
def test_trunk_sees_features_of_the_warped_and_of_the_fixed_image(
    shape: tuple[int, int, int], norm: bool
) -> None:
    network = unsettled(AffineNet(AffineNetConfig(norm=norm), "float32"))
    seen: list[torch.Tensor] = []
    network.trunk[0].register_forward_pre_hook(lambda _layer, inputs: seen.append(inputs[0]))
    fixed, moving = images(shape)
    network(fixed, moving)
    for image, found in zip((moving, fixed), seen[0].chunk(2, dim=1), strict=True):
        expected = network.first(2 * image - 1)
        if shape[1] == 12:
            expected = F.max_pool3d(F.pad(expected, (0, 1), value=-1e3), 2)
        if norm:
            axes = {"dim": (2, 3, 4), "keepdim": True}
            variance = expected.var(correction=0, **axes)
            expected = (expected - expected.mean(**axes)) / (variance + 1e-5).sqrt()
        torch.testing.assert_close(found, expected.relu(), atol=1e-5, rtol=1e-5)


def test_network_of_no_output_leaves_the_start() -> None:
    """The products with 1 and 0 are exact."""
    generator = torch.Generator().manual_seed(2)
    start = affine_from_residual(0.1 * torch.randn(2, 12, generator=generator))
    for affine in AffineNet()(*images((12, 18, 14), batch=2), steps=2, start=start):
        assert torch.equal(affine.matrix, start.matrix)
        assert torch.equal(affine.offset, start.offset)


def test_affine_parameters_mean_the_same_on_smaller_images() -> None:
    """Images that are down-sampled already are not so again, but to what is left to do."""
    network = unsettled(AffineNet(AffineNetConfig(scale=0.25), "float32"))
    whole = images((40, 48, 44))
    half, quarter = (tuple(downsample(image, s) for image in whole) for s in (0.5, 0.25))
    expected = network(*whole, steps=2)[-1]
    found = network(*quarter, steps=2, scale=0.25)[-1]
    torch.testing.assert_close(found.matrix, expected.matrix)
    torch.testing.assert_close(found.offset, expected.offset)
    wrong = network(*quarter, steps=2)[-1]
    assert (wrong.matrix - expected.matrix).abs().max() > 1e-3
    seen = outputs(network.first)
    network(*half, scale=0.5)
    network(*quarter, scale=0.25)
    assert {tuple(features.shape[2:]) for features in seen} == {(10, 12, 11)}


def test_affine_network_takes_any_size_and_gradients_reach_all_weights() -> None:
    network = unsettled(AffineNet())
    for shape in ((12, 18, 14), (16, 16, 31), (9, 9, 9), (4, 5, 6)):
        affine = network(*images(shape), steps=2)[-1]
        assert affine.matrix.shape == (1, 3, 3)
    (affine.matrix.square().sum() + affine.offset.sum()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


@PRECISIONS
def test_affine_convolutions_have_the_asked_precision_and_parameters_are_exact(
    precision: str,
) -> None:
    network = AffineNet(precision=precision)
    with torch.no_grad():
        network.last.bias.fill_(0.123456)
    features, hidden = outputs(network.trunk[0]), outputs(network.hidden)
    affine = network(*images((12, 18, 14)))[-1]
    assert features[0].dtype == getattr(torch, precision)
    assert hidden[0].dtype == torch.float32
    assert torch.equal(affine.offset, torch.full((1, 3), 0.123456))


# The momentum network


@pytest.mark.parametrize(
    ("shape", "norm"),
    [((16, 32, 16), False), ((16, 32, 16), True), ((20, 33, 17), True), ((5, 6, 7), False)],
)
@pytest.mark.parametrize("halvings", [3, 4])
def test_momentum_has_half_the_size_rounded_up(
    shape: tuple[int, int, int], halvings: int, norm: bool
) -> None:
    network = MomentumNet(MomentumNetConfig(2, norm=norm, halvings=halvings), "float32")
    fixed, moving = images(shape, batch=2)
    momentum = network(moving, fixed)
    assert momentum.shape == (2, 3, *half_shape(shape))
    assert momentum.abs().max() == 0
    unsettled(network)(moving, fixed).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


def test_norm_of_a_single_voxel_leaves_it() -> None:
    network = unsettled(MomentumNet(MomentumNetConfig(2, norm=True), "float32"))
    assert network(*images((5, 6, 7))).isfinite().all()


@pytest.mark.parametrize("shape", [(16, 32, 16), (33, 17, 22)])
@pytest.mark.parametrize("channel", [0, 1], ids=["warped", "fixed"])
def test_coarsest_level_lies_where_the_image_does(
    shape: tuple[int, int, int], channel: int
) -> None:
    """Of one channel, handed on: each level keeps every other voxel, then repeats each.

    What a level of odd size has too much is behind the last voxel, so that voxel 0 stays in place.
    """
    network = MomentumNet(TINY_MOMENTUM, "float32")
    middle = (0, 0, 1, 1, 1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        network.first.weight[0, channel, 1, 1, 1] = 1
        for level in (network.down2, network.down4, network.down8, network.down16):
            level.down.weight[middle] = 1
        for level in (network.up8, network.up4):
            level.up.weight[0, 0] = 1
            level.join.weight[middle] = 1
        network.up2.weight[0, 0] = 1
        for convolution in network.last:
            convolution.weight[middle] = 1
    seen = [(1 + image) / 2 for image in images(shape)]  # 2 i - 1 passes the activations
    momentum = network(*seen)[0, 0]
    z, y, x = (16 * (torch.arange(n) // 8) for n in momentum.shape)
    expected = 2 * seen[channel][0, 0][z[:, None, None], y[:, None], x] - 1
    torch.testing.assert_close(momentum, expected)


@PRECISIONS
def test_momentum_is_single_precision_whatever_the_convolutions_are(precision: str) -> None:
    network = unsettled(MomentumNet(TINY_MOMENTUM, precision))
    network.to(memory_format=torch.channels_last_3d)
    features = outputs(network.down4.down)
    momentum = network(*images((16, 20, 16)))
    assert features[0].dtype == getattr(torch, precision)
    assert momentum.dtype == torch.float32
    assert momentum.isfinite().all()


def test_normed_momentum_network_sees_no_contrast() -> None:
    """Images of twice the contrast about mid-grey give the same momentum."""
    config = MomentumNetConfig(2, norm=True, halvings=3)
    network = unsettled(MomentumNet(config, "float32")).double()
    fixed, moving = (image.double() for image in images((16, 20, 16)))
    found = network(*(0.5 + 0.5 * (image - 0.5) for image in (moving, fixed)))
    torch.testing.assert_close(found, network(moving, fixed), rtol=0.02, atol=1e-4)
    with pytest.raises(UserError, match="halvings: expected 3 or 4, found 5"):
        MomentumNetConfig(halvings=5)


def test_wrong_arguments_are_refused() -> None:
    fixed, moving = images((8, 8, 8))
    with pytest.raises(ValueError, match="moving: expected the shape of fixed"):
        AffineNet()(fixed, moving[..., :7])
    with pytest.raises(ValueError, match="steps: expected at least 1, found 0"):
        AffineNet()(fixed, moving, steps=0)
    with pytest.raises(ValueError, match=r"fixed: expected shape \(B, 1, D, H, W\)"):
        MomentumNet(TINY_MOMENTUM)(moving[:, 0], fixed[:, 0])
    with pytest.raises(ValueError, match=r"\(B, 3, 3\) and \(B, 3\)"):
        Affine(torch.zeros(1, 3, 3), torch.zeros(3)).map((8, 8, 8))
    assert affine_map(torch.eye(3)[None], torch.zeros(1, 3), (2, 2, 2)).shape == (1, 3, 2, 2, 2)
