"""Figure 11: rows of layers under their network, sums, text."""

import pytest
import torch
from torch import nn

from avsm.model import AVSM
from avsm.settings import PRESETS
from workflow.referee.architecture import Layer, compute, formatted, list_layers, notes
from workflow.referee.render import markdown

LAYERS = [
    Layer("affine_net.conv", "Conv3d 3", (16, 8, 12, 12), 1300),
    Layer("affine_net.weights", "parameter", (), 4),
    Layer("momentum_net.down.0", "Conv3d 3, stride 2", (32, 4, 6, 6), 50),
    Layer("smoother", "MultiGaussian", (3, 8, 12, 12), 0),
]


def test_layers_stand_under_their_network():
    table = compute(LAYERS)
    assert table["network"].tolist() == 2 * ["Affine network"] + ["Momentum network"]
    texts = formatted(table)
    assert list(texts) == ["Affine network: 1,304 parameters", "Momentum network: 50 parameters"]
    page = markdown(texts, notes((8, 12, 12), 7, 3))
    assert "| conv | Conv3d 3 | 16x8x12x12 | 1,300 |" in page
    assert "| weights | parameter | -- | 4 |" in page
    assert "images of 8x12x12 (z, y, x)" in page


class Shared(nn.Module):
    """One convolution run twice, a layer that never runs, and a parameter of its own."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv3d(2, 2, 3, padding=1)
        self.down = nn.Sequential(nn.MaxPool3d(2), nn.Conv3d(2, 5, 3, stride=2, padding=1))
        self.idle = nn.Linear(2, 3)
        self.scale = nn.Parameter(torch.ones(4))

    def forward(self, x):
        return self.down(self.conv(self.conv(x)))


def test_layers_in_the_order_of_running():
    network = Shared()
    layers = list_layers(network, lambda: network(torch.zeros(1, 2, 8, 12, 16)))
    assert layers == [
        Layer("conv", "Conv3d 3", (2, 8, 12, 16), 2 * 2 * 27 + 2),
        Layer("down.0", "MaxPool3d 2, stride 2", (2, 4, 6, 8), 0),
        Layer("down.1", "Conv3d 3, stride 2", (5, 2, 3, 4), 5 * 2 * 27 + 5),
        Layer("scale", "parameter", (), 4),
        Layer("idle.weight", "parameter", (), 6),
        Layer("idle.bias", "parameter", (), 3),
    ]
    assert not network.conv._forward_hooks  # nothing is left behind


@pytest.mark.parametrize("preset", ["paper", "small"])
def test_every_parameter_of_a_model_is_counted_once(preset):
    model = AVSM(PRESETS[preset].model).eval()
    images = torch.rand(2, 1, 1, 16, 32, 32)
    layers = list_layers(model, lambda: model(*images, affine_steps=2, steps=2))
    assert sum(layer.parameters for layer in layers) == sum(p.numel() for p in model.parameters())
    shapes = {layer.name: layer.shape for layer in layers}
    kinds = {layer.name: layer.kind for layer in layers}
    strided = {"paper": "Conv3d 3, stride 2", "small": "Conv3d 3"}[preset]  # as it runs
    assert kinds["affine_net.trunk.1"] == strided
    half = (3, 8, 16, 16)  # momenta at half the resolution
    coarsest = {"paper": "momentum_net.down16.down", "small": "momentum_net.down8.down"}[preset]
    if preset == "small":  # whose first step sees images of half the size
        half = (3, 4, 8, 8)
    assert shapes["momentum_net.last.1"] == half
    assert shapes[coarsest][1:] == (1, 2, 2)
