"""Keypoints of the small affine network: where they lie, and the affine map fitted to them."""

from __future__ import annotations

import pytest
import torch

from avsm import keypoint_net
from avsm.affine import Affine, affine_from_residual, compose_affine
from avsm.affine_net import AffineNetConfig, Stage
from avsm.keypoint_net import KeypointNet

CONFIG = AffineNetConfig(
    features=2, trunk=(Stage(3, pool=True), Stage(3, stride=2), Stage(3)), keypoints=5
)


def test_heat_is_centred_where_the_convolutions_look() -> None:
    """With equal weights a cell's gradient in the image is centred on what it sees."""
    net = KeypointNet(CONFIG).double()
    for parameter in net.parameters():
        torch.nn.init.constant_(parameter, 0.1)
    net.pool = torch.nn.AvgPool3d(2)  # of equal voxels a max-pooling names one
    image = torch.full((1, 1, 48, 56, 52), 0.9, dtype=torch.float64, requires_grad=True)
    heat = net.last(net.trunk(net._features(image)))
    cell = (5, 7, 6)
    heat[0, 0][cell].backward()
    weight = image.grad[0, 0] / image.grad.sum()
    axes = [torch.arange(n, dtype=torch.float64) for n in weight.shape]
    seen = [
        float((weight.sum(dim=[a for a in range(3) if a != axis]) * axes[axis]).sum())
        for axis in range(3)
    ]
    spike = torch.full_like(heat, -1e3)
    spike[0, :][:, cell[0], cell[1], cell[2]] = 0
    expected = [2 * v / (n - 1) - 1 for v, n in zip(seen, weight.shape, strict=True)]
    found = net._centres(spike, image.shape[2:])
    torch.testing.assert_close(found[0, 0], torch.tensor(expected, dtype=torch.float64))


def test_keypoints_of_reduced_images_are_in_the_whole_images_frame() -> None:
    net = KeypointNet(CONFIG)
    image = torch.rand(1, 1, 16, 16, 16)
    scale = torch.tensor([1.2, 1.1, 1.05])
    whole, reduced = net._see(image, torch.ones(3)), net._see(image, scale)
    torch.testing.assert_close(reduced, whole / scale)


def test_fitted_update_composes_to_the_true_map(monkeypatch: pytest.MonkeyPatch) -> None:
    """The warped image shows at q what the fixed image shows at p: A q + b = T p."""
    monkeypatch.setattr(keypoint_net, "RIDGE", 0.0)
    generator = torch.Generator().manual_seed(4)
    net = KeypointNet(CONFIG).double()
    torch.nn.init.normal_(net.log_weights, generator=generator)
    draw = {"generator": generator, "dtype": torch.float64}
    true = affine_from_residual(0.3 * torch.randn(2, 12, **draw))
    current = affine_from_residual(0.3 * torch.randn(2, 12, **draw))
    fixed = torch.rand(2, 5, 3, **draw)
    read = fixed @ true.matrix.mT + true.offset[:, None]
    warped = (read - current.offset[:, None]) @ torch.linalg.inv(current.matrix).mT
    update = affine_from_residual(net._residual(warped, fixed, current))
    found = compose_affine(update, current)
    torch.testing.assert_close(found.matrix, true.matrix)
    torch.testing.assert_close(found.offset, true.offset)


def test_an_image_stays_where_it_is_when_registered_with_itself() -> None:
    torch.manual_seed(2)
    image = torch.rand(1, 1, 12, 16, 20)
    affine = KeypointNet(CONFIG)(image, image, steps=3)[-1]
    torch.testing.assert_close(affine.matrix[0], torch.eye(3), atol=1e-6, rtol=0)
    torch.testing.assert_close(affine.offset[0], torch.zeros(3), atol=1e-6, rtol=0)


def test_starts_near_the_identity() -> None:
    torch.manual_seed(3)
    fixed, moving = torch.rand(2, 1, 1, 24, 24, 24)
    affine: Affine = KeypointNet(CONFIG)(fixed, moving)[-1]
    assert (affine.matrix - torch.eye(3)).abs().max() < 0.05
    assert affine.offset.abs().max() < 0.05
