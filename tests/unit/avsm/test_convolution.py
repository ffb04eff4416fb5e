"""The networks' convolution equals PyTorch's, whichever path it takes."""

import copy

import pytest
import torch
from torch import nn

from avsm.convolution import SMALL, Conv3d, _takes_slow_path


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("given", [False, True], ids=["own stride", "given stride"])
def test_equals_pytorchs(batch, stride, given):
    torch.manual_seed(0)
    ours = Conv3d(3, 5, 3, stride=3 - stride if given else stride, padding=1)
    theirs = nn.Conv3d(3, 5, 3, stride=stride, padding=1)
    theirs.load_state_dict(ours.state_dict())
    x = torch.rand(batch, 3, 7, 8, 9, requires_grad=True)
    y = x.detach().clone().requires_grad_()
    found, expected = ours(x, stride=stride if given else None), theirs(y)
    torch.testing.assert_close(found, expected)
    for result in (found, expected):
        result.square().sum().backward()
    torch.testing.assert_close(x.grad, y.grad)
    torch.testing.assert_close(ours.weight.grad, theirs.weight.grad)


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
