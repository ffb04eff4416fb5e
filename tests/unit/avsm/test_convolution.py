"""The networks' convolution equals PyTorch's, whichever path it takes."""

import copy

import pytest
import torch
from torch import nn

from avsm.networks import SMALL, Conv3d, _takes_slow_path


def gradients(layer, x, upstream, **given):
    """Give a layer's result and the gradients that one of its result makes."""
    layer.zero_grad()
    x = x.clone().requires_grad_()
    result = layer(x, **given)
    result.backward(upstream)
    return result.detach(), x.grad, layer.weight.grad, layer.bias.grad


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("given", [False, True], ids=["own stride", "given stride"])
def test_equals_pytorchs(batch, stride, given):
    """In double precision to the last digits; in single, within what any order of sums may miss.

    A sum of n products is exact to n times the machine's epsilon of the sum of their magnitudes.
    """
    torch.manual_seed(0)
    ours = Conv3d(3, 5, 3, stride=3 - stride if given else stride, padding=1)
    exact, sizes = (nn.Conv3d(3, 5, 3, stride=stride, padding=1).double() for _ in range(2))
    exact.load_state_dict(ours.state_dict())
    sizes.load_state_dict({name: value.abs() for name, value in ours.state_dict().items()})
    x, own = torch.rand(batch, 3, 7, 8, 9), {"stride": stride} if given else {}
    upstream = torch.randn_like(exact(x.double()).detach())
    upstream = upstream.float().double()
    expected = gradients(exact, x.double(), upstream)
    single = gradients(ours, x, upstream.float(), **own)
    double = gradients(copy.deepcopy(ours).double(), x.double(), upstream, **own)
    magnitudes = gradients(sizes, x.double(), upstream.abs())
    places = upstream[:, 0].numel()
    terms = (3 * 27 + 1, 5 * 27, places, places)
    for found, fine, right, size, count in zip(
        single, double, expected, magnitudes, terms, strict=True
    ):
        assert ((found - right).abs() <= count * torch.finfo(torch.float32).eps * size).all()
        assert ((fine - right).abs() <= count * torch.finfo(torch.float64).eps * size).all()


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
@pytest.mark.parametrize("axis", [2, 3, 4])
@pytest.mark.parametrize("stride", [1, 2])
def test_bfloat16_gradients_of_shallow_images_are_right(depth, axis, stride):
    torch.manual_seed(0)
    conv = Conv3d(32, 64, 3, stride=stride, padding=1)
    x, gradients = torch.rand(2, 32, *(depth if axis == a else 6 for a in (2, 3, 4))), []
    for half in (False, True):
        conv.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            result = conv(x)
        result.float().square().sum().backward()
        gradients.append(conv.weight.grad.clone())
    worst = (gradients[1] - gradients[0]).abs().max() / gradients[0].abs().max()
    assert worst < 0.05


def test_only_single_small_float32_images_take_the_detour():
    small = torch.rand(1, 2, 4, 5, 6)
    assert _takes_slow_path(small)
    assert not _takes_slow_path(small.expand(2, -1, -1, -1, -1))
    assert not _takes_slow_path(small.double())
    assert not _takes_slow_path(torch.empty(1, SMALL + 1, 1, 1, 2))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not _takes_slow_path(small)


def test_copies_and_states_are_as_pytorchs():
    ours = Conv3d(1, 2, 3)
    assert set(copy.deepcopy(ours).state_dict()) == set(nn.Conv3d(1, 2, 3).state_dict())
