"""Numerical optimisation: affine parameters, momenta, refinement of a model's result."""

from __future__ import annotations

import logging

import pytest
import torch

import avsm.optimise
from avsm.losses import LAMBDA_VR, level_windows, mk_lncc_loss, velocity_energy
from avsm.maps import (
    Affine,
    affine_from_residual,
    half_shape,
    identity_affine,
    identity_map,
    jacobian_determinant,
    resize,
    warp,
)
from avsm.model import AVSM
from avsm.optimise import (
    FINE_SIGMAS,
    FINE_WEIGHTS,
    AffineSettings,
    OptimisedVSVF,
    VSVFSettings,
    optimise_affine,
    optimise_vsvf,
)
from avsm.registration import refine_pair
from avsm.settings import (
    PAPER_SIGMAS,
    PAPER_WEIGHTS,
    AffineNetConfig,
    AVSMConfig,
    MomentumNetConfig,
)
from avsm.vsvf import MultiGaussian, vsvf_step

SHAPE = (24, 32, 28)
TINY = AVSMConfig(
    affine=AffineNetConfig(scale=0.5),
    momentum=MomentumNetConfig(width=2),
    affine_steps=2,
    steps=2,
    precision="float32",
)
# Rotation, scale, shear and shift: up to 4 voxels.
TRUE = affine_from_residual(
    torch.tensor([[0.06, 0.10, 0.0, -0.12, -0.05, 0.03, 0.0, 0.0, 0.08, 0.12, -0.10, 0.08]])
)


def pattern(shape: tuple[int, int, int] = SHAPE, seed: int = 0) -> torch.Tensor:
    """A smooth random image that fades to black at the border."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 1, 7, 8, 7, generator=generator)
    fade = (1 - identity_map(shape, coarse).square()).prod(dim=1, keepdim=True)
    return resize(coarse, shape) * fade


def voxels(difference: torch.Tensor) -> torch.Tensor:
    """Length in voxels of differences of maps ``(B, 3, D, H, W)``, well inside the volume."""
    half = torch.tensor([(n - 1) / 2 for n in difference.shape[2:]]).reshape(1, 3, 1, 1, 1)
    return (difference * half).norm(dim=1)[..., 5:-5, 5:-5, 5:-5]


def small_affine(**changes: object) -> AffineSettings:
    return AffineSettings(**{"scales": (0.5, 1.0), "iterations": (60, 30)} | changes)


def unsettled() -> AVSM:
    model = AVSM(TINY)
    torch.manual_seed(0)
    for layer in (model.affine_net.last, model.momentum_net.last[-1]):
        torch.nn.init.normal_(layer.weight, std=0.02)
    return model


def deformed() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A pair with a known smooth deformation of up to 2 voxels, and its map."""
    moving = pattern()
    generator = torch.Generator().manual_seed(1)
    momentum = resize(torch.randn(1, 3, 4, 4, 4, generator=generator), half_shape(SHAPE))
    velocity = MultiGaussian()(momentum)
    velocity = velocity * 0.15 / velocity.abs().max()
    low = identity_map(half_shape(SHAPE), moving)
    step = vsvf_step(momentum, velocity, low, moving)
    return step.warped, moving, step.map


# Affine


def affine_loss(affine: Affine, fixed: torch.Tensor, moving: torch.Tensor) -> float:
    windows = level_windows(SHAPE, 1.0, AffineSettings().windows)
    return mk_lncc_loss(warp(moving, affine.map(SHAPE)), fixed, windows).item()


def test_affine_is_recovered_below_a_voxel() -> None:
    moving = pattern()
    fixed = warp(moving, TRUE.map(SHAPE))
    affine = optimise_affine(fixed, moving, small_affine())
    assert voxels(affine.map(SHAPE) - TRUE.map(SHAPE)).max() < 0.2
    assert affine_loss(affine, fixed, moving) < 0.02


def test_gradient_descent_of_the_paper_lowers_the_loss() -> None:
    moving = pattern()
    fixed = warp(moving, TRUE.map(SHAPE))
    settings = AffineSettings.preset("paper")
    assert (settings.optimiser, settings.learning_rate) == ("sgd", 1e-4)
    assert settings.iterations == (200, 200, 50)
    start = optimise_affine(fixed, moving, small_affine(iterations=(0, 0)))
    affine = optimise_affine(fixed, moving, small_affine(iterations=(120, 60), optimiser="sgd"))
    before, after = (affine_loss(each, fixed, moving) for each in (start, affine))
    assert after < 0.8 * before


def test_affine_of_a_batch_is_that_of_its_pairs() -> None:
    moving = torch.cat([pattern(seed=0), pattern(seed=1)])
    fixed = warp(moving, Affine(*(part.expand(2, *part.shape[1:]) for part in TRUE)).map(SHAPE))
    settings = small_affine(iterations=(5, 2))
    both = optimise_affine(fixed, moving, settings)
    alone = optimise_affine(fixed[1:], moving[1:], settings)
    torch.testing.assert_close(both.matrix[1:], alone.matrix, atol=1e-4, rtol=0)


def test_identical_images_stay_where_they_are() -> None:
    image = pattern()
    affine = optimise_affine(image, image, small_affine())
    assert voxels(affine.map(SHAPE) - identity_map(SHAPE, image)).max() < 0.05
    result = optimise_vsvf(image, image, identity_affine(1, image))
    assert voxels(result.map - identity_map(SHAPE, image)).max() < 0.02


# vSVF


def similarity(result: OptimisedVSVF, fixed: torch.Tensor, moving: torch.Tensor) -> float:
    """Give the loss, of the default windows, at the map that was found."""
    windows = level_windows(SHAPE, 1.0, VSVFSettings().windows)
    return mk_lncc_loss(warp(moving, result.map), fixed, windows).item()


@pytest.mark.parametrize(
    "settings",
    [
        VSVFSettings(scales=(0.5, 1.0), iterations=(30, 30), lambda_vr=0.5),
        VSVFSettings((1.0,), (60,), "adam", learning_rate=0.05, final_rate=0.005, lambda_vr=0.5),
    ],
    ids=["lbfgs", "adam"],
)
def test_smooth_deformation_is_recovered_without_folds(settings: VSVFSettings) -> None:
    fixed, moving, true = deformed()
    start = identity_affine(1, moving)
    before = voxels(true - identity_map(SHAPE, moving))
    result = optimise_vsvf(fixed, moving, start, settings)
    error = voxels(true - result.map)
    assert error.mean() < 0.25 * before.mean()
    assert jacobian_determinant(result.map).min() > 0.3
    none = VSVFSettings(scales=(1.0,), iterations=(0,))
    unmoved = optimise_vsvf(fixed, moving, start, none)
    torch.testing.assert_close(unmoved.map, identity_map(SHAPE, moving))
    assert similarity(result, fixed, moving) < 0.3 * similarity(unmoved, fixed, moving)


def test_affine_part_and_given_momentum_are_where_it_starts() -> None:
    moving = pattern()
    momentum = MultiGaussian()(torch.randn(1, 3, *half_shape(SHAPE)))
    settings = VSVFSettings((1.0,), (0,), sigmas=PAPER_SIGMAS, weights=PAPER_WEIGHTS)
    result = optimise_vsvf(moving, moving, TRUE, settings, momentum)
    low = TRUE.map(half_shape(SHAPE))
    expected = vsvf_step(momentum, MultiGaussian()(momentum), low, moving)
    torch.testing.assert_close(result.map, expected.map)
    torch.testing.assert_close(result.momentum, momentum)


def test_each_evaluation_is_one_pass_forward_and_one_back(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = {"forward": 0, "backward": 0}
    loss = avsm.optimise.mk_lncc_loss

    def counted(*args: object) -> torch.Tensor:
        value = loss(*args)
        if value.requires_grad:
            counts["forward"] += 1
            value.register_hook(lambda _: counts.update(backward=counts["backward"] + 1))
        return value

    monkeypatch.setattr(avsm.optimise, "mk_lncc_loss", counted)
    fixed, moving, _ = deformed()
    settings = VSVFSettings(scales=(0.5, 1.0), iterations=(6, 6))
    result = optimise_vsvf(fixed, moving, identity_affine(1, moving), settings)
    assert counts["forward"] == counts["backward"] == result.evaluations
    assert 14 <= result.evaluations <= 24  # one for each of 12 steps and each of 2 starts, or more


def test_vsvf_needs_one_pair() -> None:
    image = pattern().expand(2, -1, -1, -1, -1)
    with pytest.raises(ValueError, match="fixed: expected a batch of one pair, found 2"):
        optimise_vsvf(image, image, identity_affine(2, image))


# Refinement


def test_refinement_lowers_the_loss() -> None:
    model = unsettled()
    fixed, moving, _ = deformed()
    own, refined = (refine_pair(model, fixed, moving, n) for n in (0, 8))
    similarities = [similarity(result, fixed, moving) for result in (own, refined)]
    smoother = MultiGaussian(FINE_SIGMAS, FINE_WEIGHTS)
    before, after = (
        loss + LAMBDA_VR * velocity_energy(result.momentum, smoother(result.momentum)).item()
        for loss, result in zip(similarities, (own, refined), strict=True)
    )
    assert after < before
    assert similarities[1] < similarities[0]
    assert refined.map.shape == (1, 3, *SHAPE)
    assert all(p.grad is None for p in model.parameters())


def test_no_iterations_give_the_networks_single_step() -> None:
    model = unsettled()
    fixed, moving, _ = deformed()
    with torch.inference_mode():
        own = model(fixed, moving, affine_steps=1, steps=1)
        result = refine_pair(model, fixed, moving, 0, affine_steps=1)
    torch.testing.assert_close(result.map, own.map)
    velocity = MultiGaussian(FINE_SIGMAS, FINE_WEIGHTS)(result.momentum)
    torch.testing.assert_close(velocity, own.steps[0].velocity)
    assert result.evaluations == 0


def test_affine_parameters_are_refined_before_where_asked_for() -> None:
    model = unsettled()
    torch.nn.init.zeros_(model.momentum_net.last[-1].weight)
    torch.nn.init.zeros_(model.momentum_net.last[-1].bias)
    fixed, moving, _ = deformed()
    plain, both = (refine_pair(model, fixed, moving, 0, affine=choice) for choice in (False, True))
    assert similarity(both, fixed, moving) < similarity(plain, fixed, moving)
    assert not torch.allclose(both.map, plain.map, atol=1e-3)


# Settings and reports


def test_progress_is_logged(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = pattern()
    monkeypatch.setattr("avsm.descent.LOG_EVERY", 2)
    settings = small_affine(iterations=(3, 5), optimiser="sgd")
    with caplog.at_level(logging.INFO, logger="avsm"):
        optimise_affine(image, image, settings)
    assert [record.args[1:3] for record in caplog.records][:3] == [(0.5, 1), (0.5, 3), (1.0, 1)]
    assert len(caplog.records) == 5
    assert "affine: scale 1, iteration 5/5, loss 0.0" in caplog.text
    assert "iteration 2/5" not in caplog.text


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AffineSettings(scales=(1.0,)), "as many iterations as scales"),
        (lambda: AffineSettings(optimiser="adam"), "optimiser: expected one of lbfgs, sgd"),
        (lambda: AffineSettings(learning_rate=0), "learning rates: expected"),
        (lambda: VSVFSettings(iterations=(1, -1, 1)), r"iterations: expected at least 0"),
        (lambda: VSVFSettings(solver="euler"), "solver: expected one of squaring, rk4"),
        (lambda: VSVFSettings.preset("x"), "preset: expected one of default, adam, paper"),
    ],
)
def test_wrong_settings(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_loss_that_is_not_finite_stops_the_descent() -> None:
    image = pattern()
    image[0, 0, 3, 3, 3] = float("nan")
    with pytest.raises(FloatingPointError, match="expected a finite loss, found nan"):
        optimise_affine(image, pattern(), small_affine(iterations=(2, 2)))
