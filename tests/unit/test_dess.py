"""The simulated image: contrast, geometry, determinism and the stated bounds of its noise."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

from workflow.phantom.dess import (
    BIAS_MAX,
    NOISE_SD,
    TISSUES,
    bias_field,
    rician,
    simulate_dess,
)

SHAPE = (72, 72, 40)  # z, y, x
SPACING_MM = (1.5, 1.5, 2.0)  # z, y, x: a field of view of 108 x 108 x 80 mm


def ball(centre_mm, radius_mm) -> np.ndarray:
    grid = np.ogrid[tuple(slice(n) for n in SHAPE)]
    parts = zip(grid, SPACING_MM, centre_mm, strict=True)
    return sum((g * s - c) ** 2 for g, s, c in parts) < radius_mm**2


def knee_labels(patella: bool = True) -> np.ndarray:
    """Balls for bones with caps of cartilage, and a lesion in the femur."""
    labels = np.zeros(SHAPE, np.uint8)
    labels[ball((72, 54, 40), 25)] = 2
    labels[ball((74, 54, 40), 24)] = 1
    labels[ball((78, 50, 40), 6)] = 7
    tibia, cartilage = ball((20, 54, 40), 24), ball((22, 54, 40), 24)
    free = labels == 0
    labels[cartilage & free] = 4
    labels[tibia & free] = 3
    if patella:
        free = labels == 0
        labels[ball((75, 88, 40), 9) & free] = 6
        labels[ball((75, 90, 40), 9) & free] = 5
    return labels


def as_image(labels: np.ndarray) -> sitk.Image:
    """Label image with an oblique header."""
    image = sitk.GetImageFromArray(labels)
    image.SetSpacing(SPACING_MM[::-1])
    c, s = np.cos(0.2), np.sin(0.2)
    image.SetDirection((-c, s, 0, -s, -c, 0, 0, 0, 1))
    image.SetOrigin((31.0, -12.5, 7.25))
    return image


@pytest.fixture(scope="module")
def labels() -> np.ndarray:
    return knee_labels()


@pytest.fixture(scope="module")
def images(labels) -> list[np.ndarray]:
    """Two visits of one subject."""
    return [
        sitk.GetArrayFromImage(simulate_dess(as_image(labels), (2019, 7, visit)))
        for visit in (0, 1)
    ]


def test_the_same_seed_gives_the_same_image(labels, images):
    again = simulate_dess(as_image(labels), (2019, 7, 0))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(again), images[0])


def test_texture_and_noise_are_new_at_each_visit(labels, images):
    # Deep in the femur the mean is flat: what is left is texture and noise, each its own.
    deep = ball((78, 58, 40), 14) & (labels == 1)
    first, second = (image[deep].astype(float) for image in images)
    assert first.std() > 2
    correlation = np.corrcoef(first, second)[0, 1]
    assert abs(correlation) < 0.3  # the bias field and the smooth mottle leave little chance


def test_a_subject_keeps_its_soft_tissue(labels):
    def smoothed(seed, subject):
        image = simulate_dess(as_image(labels), seed, subject)
        # 4 mm average out noise and grain, and leave muscles, fat and the skin line.
        return sitk.GetArrayFromImage(sitk.SmoothingRecursiveGaussian(image, 4.0))[labels == 0]

    first, same, other = smoothed(1, 7), smoothed(2, 7), smoothed(2, 8)
    kept = np.corrcoef(first, same)[0, 1]
    assert kept > 0.9
    assert kept > np.corrcoef(first, other)[0, 1]


def test_contrast_of_bone_cartilage_and_air(labels, images):
    def mean(values):
        return np.mean([image[np.isin(labels, values)].mean() for image in images])

    assert mean((2, 4, 6)) > 1.5 * mean((1, 3, 5))
    assert mean((7,)) > 1.2 * mean((1,))
    corner = np.s_[-6:, -6:, :4]
    assert all(image[corner].mean() < 0.25 * mean((1,)) for image in images)


def test_cortex_is_darker_than_trabecular_bone(labels, images):
    # Only the upper half of the femur: it borders soft tissue, not cartilage.
    upper = (labels == 1) & (np.arange(SHAPE[0]) * SPACING_MM[0] > 80)[:, None, None]
    shell = upper & ~ball((74, 54, 40), 23)
    inside = upper & ball((74, 54, 40), 19)
    for image in images:
        assert image[shell].mean() < 0.8 * image[inside].mean()


def test_geometry_of_an_oblique_grid_is_kept(labels):
    label = as_image(labels)
    image = simulate_dess(label, 3)
    assert image.GetPixelID() == sitk.sitkInt16
    assert image.GetSize() == label.GetSize()
    for name in ("GetSpacing", "GetOrigin", "GetDirection"):
        assert getattr(image, name)() == getattr(label, name)()


@pytest.mark.parametrize("seed", range(5))
def test_bias_field_is_bounded_and_smooth(seed):
    field = bias_field(SHAPE, SPACING_MM, np.random.default_rng(seed))
    assert field.shape == SHAPE
    assert 0.05 < np.abs(field - 1).max() <= BIAS_MAX + 1e-6  # float32 rounding
    for axis, step in enumerate(SPACING_MM):
        assert np.abs(np.diff(field, axis=axis)).max() < 0.03 * step  # per mm


def test_noise_in_air_has_the_stated_level():
    # Far from a small bone everything is air, where Rician noise of sd s has mean 1.2533 s.
    labels = np.zeros((60, 100, 100), np.uint8)
    labels[20:30, 40:50, 45:55] = 1
    image = sitk.GetImageFromArray(labels)
    image.SetSpacing((2.0, 2.0, 2.0))
    air = sitk.GetArrayFromImage(simulate_dess(image, 5))[:, -15:, :10]
    low, high = (1 - BIAS_MAX) * NOISE_SD[0], (1 + BIAS_MAX) * NOISE_SD[1]
    assert low < air.mean() / np.sqrt(np.pi / 2) < high


def test_rician_noise_of_bright_tissue_is_gaussian():
    tissue = np.full((40, 40, 40), 150, np.float32)
    noisy = rician(tissue, 5.0, np.random.default_rng(0))
    assert noisy.std() == pytest.approx(5.0, rel=0.02)
    assert noisy.mean() == pytest.approx(150 + 5.0**2 / 300, abs=0.1)  # s + sd^2 / 2s


@pytest.mark.parametrize("kept", [(1, 2, 3, 4, 7), (1,), (3, 4), (5, 6), (1, 2, 5, 6)], ids=str)
def test_missing_structures_are_left_out(labels, kept):
    partial = np.where(np.isin(labels, kept), labels, 0).astype(np.uint8)
    image = sitk.GetArrayFromImage(simulate_dess(as_image(partial), 1))
    bone = image[np.isin(partial, (1, 3, 5))].mean()
    assert 20 < bone < 2 * TISSUES["marrow"].mean
    assert image.min() >= 0


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (sitk.Image(8, 8, sitk.sitkUInt8), "expected 3 dimensions, found 2"),
        (sitk.Image(8, 8, 8, sitk.sitkFloat32), "expected scalar integers, found 32-bit float"),
        (sitk.Image(8, 8, 8, sitk.sitkUInt8), r"expected bone .*, found labels \[0\]"),
    ],
)
def test_bad_label_maps_are_refused(image, message):
    with pytest.raises(ValueError, match=message):
        simulate_dess(image, 0)


def test_contrasts_change_signals_and_nothing_else(labels):
    """Marrow and fluid swap places in T1; the outlines of tissues stay where they are."""
    usual, other, cut = (
        sitk.GetArrayFromImage(simulate_dess(as_image(labels), (2019, 7, 0), contrast=name))
        for name in ("dess", "t1", "cut")
    )
    deep = ball((78, 58, 40), 14) & (labels == 1)
    assert usual[deep].mean() < 70 < 170 < other[deep].mean()
    cartilage = (labels == 2) | (labels == 4)
    assert other[cartilage].mean() < usual[cartilage].mean()
    np.testing.assert_array_equal(cut[deep], usual[deep])
    assert (cut < usual - 30).sum() > 1000  # skin and fat are gone
