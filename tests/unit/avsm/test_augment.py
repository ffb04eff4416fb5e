"""Random affine maps, starts and contrasts: seeds, spreads, inverses."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from avsm.maps import Affine, compose_affine, identity_affine
from avsm.pairs import keyed_generator, random_affine, random_contrast, random_start
from avsm.settings import Augmentation

SPREAD = Augmentation(turn=0.07, stretch=0.03, shift=0.07)
HALVES = slice(50), slice(50, None)
MANY = 4000  # a standard deviation of so many draws is off by 1.1 per cent (one sd)


def test_keyed_generators_repeat_and_differ() -> None:
    draws = [torch.rand(3, generator=keyed_generator(1, "affine", 2, n)) for n in (3, 3, 4)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_turns_are_rotations_and_stretches_symmetric() -> None:
    turned = random_affine(MANY, Augmentation(turn=0.2), keyed_generator(0)).matrix
    product = turned @ turned.mT
    torch.testing.assert_close(product, torch.eye(3).expand_as(product), atol=1e-5, rtol=0)
    stretched = random_affine(MANY, Augmentation(stretch=0.2), keyed_generator(0)).matrix
    torch.testing.assert_close(stretched, stretched.mT, atol=1e-5, rtol=0)
    assert (torch.linalg.det(stretched) > 0).all()


def test_spreads_are_standard_deviations() -> None:
    drawn = random_affine(MANY, Augmentation(turn=0.01), keyed_generator(1))
    angles = (drawn.matrix - drawn.matrix.mT)[:, [0, 0, 1], [1, 2, 2]] / 2
    assert angles.std(dim=0).tolist() == pytest.approx([0.01] * 3, rel=0.05)
    assert drawn.offset.abs().max() == 0
    drawn = random_affine(MANY, Augmentation(stretch=0.01), keyed_generator(1))
    sizes = drawn.matrix.diagonal(dim1=1, dim2=2) - 1
    assert sizes.std(dim=0).tolist() == pytest.approx([0.01] * 3, rel=0.05)
    drawn = random_affine(MANY, Augmentation(shift=0.3), keyed_generator(1))
    assert drawn.offset.std(dim=0).tolist() == pytest.approx([0.3] * 3, rel=0.05)
    assert torch.equal(drawn.matrix, torch.eye(3).expand(MANY, 3, 3))


def test_a_factor_is_that_of_all_spreads() -> None:
    found = random_affine(5, SPREAD, keyed_generator(2), factor=0.5)
    halved = Augmentation(turn=0.035, stretch=0.015, shift=0.035)
    expected = random_affine(5, halved, keyed_generator(2))
    torch.testing.assert_close(found.matrix, expected.matrix)
    torch.testing.assert_close(found.offset, expected.offset)


def test_starts_of_the_backward_direction_are_inverses() -> None:
    start = random_start(50, SPREAD, keyed_generator(3))
    assert len(start.matrix) == len(start.offset) == 100
    forward, backward = (Affine(start.matrix[h], start.offset[h]) for h in HALVES)
    composed = compose_affine(backward, forward)
    identity = identity_affine(50, composed.matrix)
    torch.testing.assert_close(composed.matrix, identity.matrix, atol=1e-5, rtol=0)
    torch.testing.assert_close(composed.offset, identity.offset, atol=1e-5, rtol=0)
    assert not torch.allclose(forward.matrix, backward.matrix, atol=1e-2)


def test_a_fifth_of_the_starts_is_the_identity() -> None:
    start = random_start(MANY, SPREAD, keyed_generator(4))
    stays = (start.offset == 0).all(dim=1)
    assert torch.equal(start.matrix[stays], torch.eye(3).expand(int(stays.sum()), 3, 3))
    assert torch.equal(stays[:MANY], stays[MANY:])
    assert float(stays.float().mean()) == pytest.approx(0.2, abs=0.03)
    assert random_start(4, Augmentation(error=0.3, gamma=0.2), keyed_generator(4)) is None


def image(count: int = 2) -> torch.Tensor:
    """Images within [.25, .75], which no change of a few per cent drives out of [0, 1]."""
    return 0.25 + 0.5 * torch.rand(count, 1, 8, 9, 10, generator=keyed_generator(5))


def test_no_contrast_changes_nothing() -> None:
    before = image()
    spread = dataclasses.replace(SPREAD, error=0.3)
    assert random_contrast(before, spread, keyed_generator(0)) is before


def test_gamma_is_an_exponent_of_each_image() -> None:
    before = image(MANY // 10)
    changed = random_contrast(before, Augmentation(gamma=0.2), keyed_generator(6))
    exponents = (changed.double().log() / before.double().log()).flatten(1)
    assert exponents.std(dim=1).max() < 1e-5
    assert float(exponents.mean(dim=1).log().std()) == pytest.approx(0.2, rel=0.15)
    extremes = torch.tensor([0.0, 1.0]).expand(1, 1, 2, 2, 2)
    kept = random_contrast(extremes, Augmentation(gamma=0.2), keyed_generator(6))
    assert torch.equal(kept, extremes)


def test_bias_is_a_smooth_factor() -> None:
    before = image()
    changed = random_contrast(before, Augmentation(bias=0.05), keyed_generator(7))
    factor = changed / before - 1
    assert 0.01 < float(factor.std()) < 0.06
    # Trilinear between 3 places an axis: straight but for the bend in the middle, at 9 voxels.
    assert factor.diff(n=2, dim=3)[..., :3, :].abs().max() < 1e-5
    assert factor.diff(dim=3).abs().max() > 1e-3


def test_noise_has_its_standard_deviation_and_intensities_stay_in_range() -> None:
    before = image(8)
    noise = random_contrast(before, Augmentation(noise=0.03), keyed_generator(8)) - before
    assert float(noise.std()) == pytest.approx(0.03, rel=0.05)
    assert noise[0].sub(noise[1]).abs().max() > 0.03
    loud = random_contrast(before, Augmentation(noise=1.0), keyed_generator(8))
    assert (float(loud.min()), float(loud.max())) == (0, 1)
