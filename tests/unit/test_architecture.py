"""Figure 11: rows of layers under their network, sums, text."""

from avsm.layers import Layer
from workflow.referee.architecture import formatted, layer_table, notes
from workflow.referee.render import markdown

LAYERS = [
    Layer("one.conv", "Conv3d 3", (16, 8, 12, 12), 1300),
    Layer("one.weights", "parameter", (), 4),
    Layer("two.down.0", "Conv3d 3, stride 2", (32, 4, 6, 6), 50),
    Layer("smoother", "MultiGaussian", (3, 8, 12, 12), 0),
]


def test_layers_stand_under_their_network():
    table = layer_table(LAYERS, {"one": "First", "two": "Second"})
    assert table["network"].tolist() == ["First", "First", "Second"]
    texts = formatted(table)
    assert list(texts) == ["First: 1,304 parameters", "Second: 50 parameters"]
    page = markdown(texts, notes((8, 12, 12), 7, 3))
    assert "| conv | Conv3d 3 | 16x8x12x12 | 1,300 |" in page
    assert "| weights | parameter | -- | 4 |" in page
    assert "images of 8x12x12 (z, y, x)" in page
