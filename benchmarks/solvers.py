"""Compare the two solvers of the advection equation: accuracy, folds and cost.

A random momentum is smoothed to a velocity and scaled until it moves no point of the low-resolution
grid by more than a given number of voxels along any axis. The reference follows each point upstream
in 40 Runge-Kutta steps.

Run ``python -m benchmarks.solvers`` from the root of the repository.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch

from avsm.maps import identity_map, jacobian_determinant, spacing, warp_displacement
from avsm.vsvf import MultiGaussian, advance

RUNS = (("squaring", 4), ("squaring", 5), ("squaring", 7), ("rk4", 10))
VELOCITIES = (1, 2, 5, 10, 20, 30)  # largest component, in voxels of the low-resolution grid


def trajectories(velocity: torch.Tensor, steps: int = 40) -> torch.Tensor:
    """Follow every point upstream for unit time: the map exp(-v) to high accuracy."""
    x, dt = identity_map(velocity.shape[2:], velocity), 1 / steps
    for _ in range(steps):
        k1 = -warp_displacement(velocity, x)
        k2 = -warp_displacement(velocity, x + dt / 2 * k1)
        k3 = -warp_displacement(velocity, x + dt / 2 * k2)
        k4 = -warp_displacement(velocity, x + dt * k3)
        x = x + dt / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return x


def seconds(function: Callable[[], object], repeats: int) -> float:
    """Give the shortest time of several calls after one that does not count."""
    function()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def cost(velocity: torch.Tensor, solver: str, steps: int, repeats: int) -> tuple[float, float]:
    """Give the seconds of a forward pass and of forward and backward together."""
    phi = identity_map(velocity.shape[2:], velocity)
    leaf = velocity.clone().requires_grad_()

    def forward() -> torch.Tensor:
        with torch.no_grad():
            return advance(phi, velocity, solver, steps)

    def both() -> None:
        advance(phi, leaf, solver, steps).square().sum().backward()

    return seconds(forward, repeats), seconds(both, repeats)


def main() -> None:
    """Print one table of accuracy and folds and one of costs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", type=int, nargs=3, default=(40, 96, 96), metavar=("D", "H", "W"))
    parser.add_argument("--margin", type=int, default=5, help="voxels left out at the border")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    shape, margin = tuple(arguments.shape), arguments.margin
    voxel = torch.tensor(spacing(shape))[:, None, None, None]
    inside = (..., *(slice(margin, -margin) for _ in shape))
    velocity = MultiGaussian()(torch.randn(1, 3, *shape))
    velocity /= (velocity / voxel).abs().amax(dim=(2, 3, 4), keepdim=True)  # one voxel per axis
    phi = identity_map(shape, velocity)
    print(f"Largest error in voxels, {margin} or more from the border (anywhere), and folds")
    print("| voxels | " + " | ".join(f"{solver} {steps}" for solver, steps in RUNS) + " |")
    print("|--:|" + "--:|" * len(RUNS))
    for size in VELOCITIES:
        reference, cells = trajectories(size * velocity), []
        for solver, steps in RUNS:
            result = advance(phi, size * velocity, solver, steps)
            error = ((result - reference) / voxel).abs()
            folds = int((jacobian_determinant(result) < 0).sum())
            cells.append(f"{error[inside].max():.3f} ({error.max():.2f}), {folds}")
        print(f"| {size} | " + " | ".join(cells) + " |")
    print("\nSeconds forward, forward and backward")
    for solver, steps in RUNS:
        forward, both = cost(5 * velocity, solver, steps, arguments.repeats)
        print(f"{solver} {steps}: {forward:.3f}, {both:.3f}")


if __name__ == "__main__":
    main()
