"""The whole model and its losses: identity at the start, symmetric batches, units, learning."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from avsm.losses import (
    Window,
    affine_losses,
    asymmetry,
    both_directions,
    mk_lncc_loss,
    step_losses,
    sum_losses,
    velocity_energy,
)
from avsm.maps import (
    affine_from_residual,
    affine_map,
    downsample,
    half_shape,
    identity_map,
    resize,
    warp,
)
from avsm.model import AVSM
from avsm.settings import AVSMConfig, MomentumNetConfig

TINY = AVSMConfig(momentum=MomentumNetConfig(width=2), affine_steps=2, steps=2, precision="float32")
SHAPE = (17, 20, 18)


def images(
    batch: int = 1, shape: tuple[int, int, int] = SHAPE
) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(2 * batch, 1, 5, 5, 5, generator=generator)
    fixed, moving = resize(coarse, shape).chunk(2)
    return fixed, moving


def unsettled(config: AVSMConfig = TINY) -> AVSM:
    """A model that moves images."""
    torch.manual_seed(0)
    model = AVSM(config)
    for layer in (model.affine_net.last, model.momentum_net.last[-1]):
        torch.nn.init.normal_(layer.weight, std=0.1)
    return model


def test_untrained_model_is_the_identity() -> None:
    fixed, moving = images(batch=2)
    result = AVSM(TINY)(fixed, moving)
    identity = identity_map(SHAPE, fixed).expand_as(result.map)
    torch.testing.assert_close(result.map, identity)
    torch.testing.assert_close(result.warped, moving)
    torch.testing.assert_close(warp(moving, result.affines[-1].map(SHAPE)), moving)


def test_zero_momentum_leaves_the_affine_map() -> None:
    model = AVSM(TINY)
    _, moving = images()
    affine = affine_from_residual(0.05 * torch.randn(1, 12))
    low = affine.map(half_shape(SHAPE))
    step = model.vsvf(torch.zeros_like(low), low, moving)
    torch.testing.assert_close(step.map, affine.map(SHAPE))
    torch.testing.assert_close(step.warped, warp(moving, affine.map(SHAPE)))


@pytest.mark.parametrize("solver", ["squaring", "rk4"])
def test_result_holds_every_step_and_the_source_is_interpolated_once(solver: str) -> None:
    model = unsettled(dataclasses.replace(TINY, solver=solver))
    fixed, moving = images()
    result = model(fixed, moving, affine_steps=3, steps=2)
    assert len(result.affines) == 3
    assert len(result.steps) == 2
    first, last = result.steps
    assert first.momentum.shape == first.low_map.shape == (1, 3, *half_shape(SHAPE))
    assert last.map is result.map
    torch.testing.assert_close(result.warped, warp(moving, result.map))
    assert (last.low_map - first.low_map).abs().max() > 0


def test_affine_alone() -> None:
    fixed, moving = images()
    result = AVSM(TINY)(fixed, moving, steps=0)
    assert result.steps == ()
    assert torch.equal(result.map, result.affines[-1].map(SHAPE))
    assert torch.equal(result.warped, warp(moving, result.map))


def test_registration_is_the_affine_networks_map_refined_by_vsvf_steps() -> None:
    model = unsettled()
    fixed, moving = images()
    result = model(fixed, moving)
    start = model.affine_net(fixed, moving, TINY.affine_steps)[-1]
    assert (start.map(SHAPE) - identity_map(SHAPE, fixed)).abs().max() > 0.01
    first, second = result.steps
    momentum = model.momentum_net(warp(moving, start.map(SHAPE)), fixed)
    torch.testing.assert_close(first.momentum, momentum)
    step = model.vsvf(momentum, start.map(half_shape(SHAPE)), moving)
    torch.testing.assert_close(first.map, step.map)
    step = model.vsvf(model.momentum_net(step.warped, fixed), step.low_map, moving)
    torch.testing.assert_close(second.map, step.map)
    assert model.vsvf_steps(fixed, moving, start, 0) == ()


def test_first_steps_see_less_resolution_and_hand_their_map_on() -> None:
    """Two steps at half the resolution, one at the full, put together by hand."""
    model = unsettled(dataclasses.replace(TINY, step_scales=(0.5, 0.5, 1.0)))
    fixed, moving = images()
    result = model(fixed, moving, steps=3)
    coarse = [downsample(image, 0.5) for image in (fixed, moving)]
    shape = coarse[0].shape[2:]
    start = result.affines[-1]
    low, warped = start.map(half_shape(shape)), warp(coarse[1], start.map(shape))
    for _ in range(2):
        step = model.vsvf(model.momentum_net(warped, coarse[0]), low, coarse[1])
        low, warped = step.low_map, step.warped
    low, warped = resize(step.map, half_shape(SHAPE)), warp(moving, resize(step.map, SHAPE))
    step = model.vsvf(model.momentum_net(warped, fixed), low, moving)
    torch.testing.assert_close(result.map, step.map)
    assert [s.warped.shape[2:] for s in result.steps] == [shape, shape, fixed.shape[2:]]
    # Images that are down-sampled already are seen as they are by the first two steps.
    same = model.vsvf_steps(*coarse, start, 2, scale=0.5)
    torch.testing.assert_close(same[-1].map, result.steps[1].map)


def test_directions_of_a_batch_are_independent() -> None:
    model = unsettled()
    fixed, moving = images()
    both = model(*both_directions(fixed, moving))
    torch.testing.assert_close(both.map[:1], model(fixed, moving).map, atol=1e-5, rtol=0)
    torch.testing.assert_close(both.map[1:], model(moving, fixed).map, atol=1e-5, rtol=0)


def test_half_precision_gives_finite_values_and_gradients() -> None:
    model = unsettled(dataclasses.replace(TINY, precision="bfloat16"))
    fixed, moving = both_directions(*images())
    result = model(fixed, moving)
    losses = [
        step_losses(mk_lncc_loss(s.warped, fixed), s.low_map, s.momentum, s.velocity)
        for s in result.steps
    ]
    total = sum_losses(losses).total
    assert result.map.dtype == total.dtype == torch.float32
    total.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_energy_is_an_integral_over_the_unit_cube() -> None:
    """A velocity of a quarter of the cube's side, everywhere: the integral of 1/16."""
    velocity = torch.zeros(2, 3, 5, 6, 7)
    velocity[:, 1] = 0.5  # in normalised coordinates, whose volume has sides of 2
    torch.testing.assert_close(velocity_energy(velocity, velocity), torch.full((2,), 1 / 16))


def test_asymmetry_is_the_mean_square_in_the_unit_cube() -> None:
    eye = torch.eye(3)[None]
    there = affine_map(eye, torch.tensor([[0.2, 0.0, 0.0]]), SHAPE)
    back = affine_map(eye, torch.tensor([[-0.2, 0.0, 0.0]]), SHAPE)
    assert asymmetry(there, back).item() < 1e-12
    torch.testing.assert_close(asymmetry(there, there), torch.tensor([0.2**2 / 3]))  # (.4 / 2)^2


def test_losses_sum_directions_and_steps() -> None:
    similarity = torch.tensor([0.2, 0.4, 0.6, 0.8])  # two pairs, both ways
    phi = identity_map(SHAPE, similarity).expand(4, -1, -1, -1, -1)
    momentum = torch.full((4, 3, 4, 4, 4), 0.2)
    losses = step_losses(similarity, phi, momentum, momentum, lambda_vr=10, lambda_vs=500)
    assert losses.similarity.item() == pytest.approx(1.0)  # mean over pairs of both ways' sum
    assert losses.regularisation.item() == pytest.approx(2 * 10 * 3 * 0.01)
    assert losses.symmetry.item() == pytest.approx(0, abs=1e-9)
    assert losses.total.item() == pytest.approx(1.6)
    assert sum_losses([losses, losses]).total.item() == pytest.approx(3.2)
    assert step_losses(similarity, phi, momentum, momentum, lambda_vs=0).symmetry.item() == 0


def test_affine_losses_of_equation_6() -> None:
    residual = torch.zeros(2, 12)
    residual[0, 9], residual[1, 9] = 0.3, -0.1
    losses = affine_losses(torch.tensor([0.5, 0.7]), affine_from_residual(residual), lambda_ar=2)
    assert losses.similarity.item() == pytest.approx(1.2)
    assert losses.regularisation.item() == pytest.approx(2 * (0.09 + 0.01))
    assert losses.symmetry.item() == pytest.approx(10 * 0.2**2)


def test_odd_batch_cannot_hold_both_directions() -> None:
    with pytest.raises(ValueError, match=r"even size.*found 3"):
        affine_losses(torch.zeros(3), affine_from_residual(torch.zeros(3, 12)), lambda_ar=1)


def test_descending_the_losses_aligns_a_pair() -> None:
    """The momentum of one pair, optimised through flow, warp and similarity."""
    model = AVSM(TINY)
    fixed, _ = images()
    shift = affine_map(torch.eye(3)[None], torch.tensor([[0.0, 0.1, -0.1]]), SHAPE)
    moving = warp(fixed, shift)
    low = identity_map(half_shape(SHAPE), fixed)
    momentum = torch.zeros_like(low, requires_grad=True)
    optimiser = torch.optim.Adam([momentum], lr=0.05)
    history = []
    for _ in range(15):
        step = model.vsvf(momentum, low, moving)
        similarity = mk_lncc_loss(step.warped, fixed, [Window(1.0, 8, 1, 2)])
        loss = step_losses(similarity, step.low_map, momentum, step.velocity, lambda_vs=0)
        optimiser.zero_grad()
        loss.total.backward()
        optimiser.step()
        history.append(loss.similarity.item())
    assert history[-1] < 0.5 * history[0]
