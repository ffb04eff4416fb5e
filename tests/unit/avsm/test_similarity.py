"""Similarity: Eq. 2 against a loop and against dense convolutions, safety."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import avsm.losses
from avsm.losses import (
    FLOOR,
    Window,
    level_windows,
    lncc,
    mk_lncc_loss,
    ncc_loss,
    paper_windows,
)

SHAPE = (16, 17, 20)
WINDOW = Window(1.0, size=4, dilation=2, stride=3)


def pair(shape: tuple[int, int, int] = SHAPE, batch: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, noise = torch.rand(2, batch, 1, *shape, generator=generator, dtype=torch.float64)
    return x, 0.6 * x + 0.4 * noise


def loop_lncc(x: np.ndarray, y: np.ndarray, window: Window) -> float:
    """Eq. 2 word by word."""
    scores = []
    starts = (range(0, n - window.extent + 1, window.stride) for n in x.shape)
    for corner in itertools.product(*starts):
        zeta = tuple(slice(s, s + window.extent, window.dilation) for s in corner)
        dx, dy = x[zeta] - x[zeta].mean(), y[zeta] - y[zeta].mean()
        scores.append((dx * dy).sum() / np.sqrt((dx**2).sum() * (dy**2).sum()))
    return float(np.mean(scores))


def dense_loss(x: torch.Tensor, y: torch.Tensor, windows: tuple[Window, ...]) -> torch.Tensor:
    """The loss with the windows' sums as dense dilated convolutions."""
    loss = torch.ones(len(x), dtype=x.dtype)
    for w in windows:
        kernel = torch.full((1, 1, w.size, w.size, w.size), w.size**-3.0, dtype=x.dtype)
        mx, my, xx, yy, xy = (
            F.conv3d(image, kernel, dilation=w.dilation, stride=w.stride)
            for image in (x, y, x * x, y * y, x * y)
        )
        floor = FLOOR
        deviations = ((xx - mx**2 + floor) * (yy - my**2 + floor)).sqrt()
        loss = loss - w.weight * ((xy - mx * my) / deviations).mean(dim=(1, 2, 3, 4))
    return loss


@pytest.mark.parametrize(
    "window", [WINDOW, Window(1.0, 5, 1, 2), Window(1.0, 6, 2, 2), Window(1.0, 4, 3, 6)]
)
def test_equation_2_word_by_word(window: Window) -> None:
    x, y = pair()
    expected = [
        loop_lncc(a.numpy(), b.numpy(), window) for a, b in zip(x[:, 0], y[:, 0], strict=True)
    ]
    np.testing.assert_allclose(lncc(x, y, window, floor=0).numpy(), expected, atol=1e-10)


def test_value_and_gradient_equal_dense_convolutions() -> None:
    x, y = pair((24, 28, 32))
    windows = paper_windows(x.shape[2:])
    values, gradients = [], []
    for loss, dtype in ((mk_lncc_loss, torch.float32), (dense_loss, torch.float64)):
        leaf = x.to(dtype).requires_grad_()
        values.append(loss(leaf, y.to(dtype), windows))
        (gradient,) = torch.autograd.grad(values[-1].sum(), leaf)
        gradients.append(gradient.double())
    assert (values[0] - values[1]).abs().max() < 1e-5
    assert (gradients[0] - gradients[1]).abs().max() < 1e-5 * gradients[1].abs().max() + 1e-9


def test_chunks_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = pair()
    expected = lncc(x, y, WINDOW)
    monkeypatch.setattr(avsm.losses, "CPU_CHUNK", 3 * 2 * 17 * 20)  # three planes at a time
    torch.testing.assert_close(lncc(x, y, WINDOW), expected)


@pytest.mark.parametrize("squared", [False, True])
def test_gradient_in_both_images(squared: bool) -> None:
    x, y = (image.requires_grad_() for image in pair((5, 6, 7), batch=1))
    window = Window(1.0, size=2, dilation=2, stride=1)
    assert torch.autograd.gradcheck(lambda a, b: lncc(a, b, window, squared), (x, y))
    assert torch.autograd.gradcheck(lambda a, b: ncc_loss(a, b, squared), (x, y))


@pytest.mark.parametrize("loss", [mk_lncc_loss, ncc_loss])
def test_ends_of_the_scale(loss) -> None:
    x, _ = pair()
    assert loss(0.5 * x + 0.2, x, floor=0).abs().max() < 1e-9
    assert (loss(1 - x, x, floor=0) - 2).abs().max() < 1e-9
    assert loss(1 - x, x, squared=True, floor=0).abs().max() < 1e-9


@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("loss", [mk_lncc_loss, ncc_loss])
def test_constant_windows_count_nothing_and_have_finite_gradients(loss, squared: bool) -> None:
    _, y = pair()
    for x in (torch.full_like(y, 0.3), torch.zeros_like(y)):
        leaf = x.float().requires_grad_()
        value = loss(leaf, y.float(), squared=squared)
        (gradient,) = torch.autograd.grad(value.sum(), leaf)
        assert (value - 1).abs().max() < 1e-4
        assert gradient.isfinite().all()


def test_faint_contrast_on_a_bright_ground_survives_single_precision() -> None:
    x, y = (0.8 + 0.01 * image for image in pair())
    single = mk_lncc_loss(x.float(), y.float())
    torch.testing.assert_close(single.double(), mk_lncc_loss(x, y), rtol=0, atol=1e-3)


def test_windows_of_the_paper() -> None:
    assert paper_windows((80, 192, 192)) == (Window(0.3, 20, 2, 5), Window(0.7, 40, 2, 10))
    dense = level_windows((80, 192, 192), 1.0, "dense")
    assert dense == (Window(0.3, 39, 1, 5), Window(0.7, 79, 1, 10))


@pytest.mark.parametrize("size", [8, 9, 11, 40, 41, 64])
def test_windows_fit_images_of_any_size(size: int) -> None:
    for windows in (paper_windows((size, 64, 70)), level_windows((size, 64, 70), 1.0, "dense")):
        assert all(window.extent <= size for window in windows)
        assert sum(window.weight for window in windows) == pytest.approx(1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x, y: lncc(x, y, Window(1, 20)), "at most 16 voxels.*found 20"),
        (lambda x, y: mk_lncc_loss(x, y, [Window(0.5, 3)]), r"sum to 1, found \[0.5\]"),
        (lambda x, y: mk_lncc_loss(x, y[:1]), r"warped: expected the shape of fixed, \(1, 1"),
        (lambda x, y: ncc_loss(x[:, 0], y[:, 0]), r"warped: expected shape \(B, 1, D, H, W\)"),
        (lambda x, y: paper_windows((80, 7, 80)), "at least 8 voxels"),
    ],
)
def test_wrong_arguments_are_refused(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(*pair())
