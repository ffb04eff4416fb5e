"""Compare mk-LNCC by separable sums with dense dilated convolutions: seconds and difference.

Run ``python -m benchmarks.similarity`` from the root of the repository.
"""

from __future__ import annotations

import argparse

import torch
import torch.nn.functional as F

from avsm.losses import FLOOR, Window, mk_lncc_loss, paper_windows
from benchmarks.solvers import seconds


def dense_loss(x: torch.Tensor, y: torch.Tensor, windows: tuple[Window, ...]) -> torch.Tensor:
    """Give the loss as the authors' code sums windows: convolutions with cubes of ones."""
    loss = torch.ones(len(x), dtype=x.dtype)
    for w in windows:
        kernel = torch.full((1, 1, w.size, w.size, w.size), w.size**-3.0, dtype=x.dtype)
        mx, my, xx, yy, xy = (
            F.conv3d(image, kernel, dilation=w.dilation, stride=w.stride)
            for image in (x, y, x * x, y * y, x * y)
        )
        deviations = ((xx - mx**2 + FLOOR) * (yy - my**2 + FLOOR)).sqrt()
        loss = loss - w.weight * ((xy - mx * my) / deviations).mean(dim=(1, 2, 3, 4))
    return loss


def main() -> None:
    """Print the seconds of forward and backward of one pair, and the largest differences."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", type=int, nargs=3, default=(80, 192, 192), metavar="N")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    coarse = torch.rand(2, 1, *(n // 4 for n in arguments.shape))
    x, y = F.interpolate(coarse, size=tuple(arguments.shape), mode="trilinear").chunk(2)
    y = 0.7 * x + 0.3 * y
    windows, times, results = paper_windows(arguments.shape), [], []
    for loss in (mk_lncc_loss, dense_loss):
        leaf = x.clone().requires_grad_()

        def both(loss=loss, leaf=leaf) -> tuple[torch.Tensor, torch.Tensor]:
            value = loss(leaf, y, windows)
            return value.detach(), torch.autograd.grad(value.sum(), leaf)[0]

        times.append(seconds(both, arguments.repeats))
        results.append(both())
    (value, gradient), (expected, expected_gradient) = results
    error = (gradient - expected_gradient).abs().max() / expected_gradient.abs().max()
    print(f"separable {times[0]:.3f} s, dense {times[1]:.3f} s: {times[1] / times[0]:.1f} times")
    print(f"difference of values {(value - expected).abs().max():.1e}, of gradients {error:.1e}")


if __name__ == "__main__":
    main()
