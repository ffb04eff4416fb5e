"""Descent of a loss over momenta: Adam, and L-BFGS in the metric of the regulariser.

The loss is f(K m) + w <m, K m>: a data term that sees the velocity v = K m alone, and the energy.
In the inner product <a, b>_K = <a, K b> its gradient is f'(v) + 2 w m, without K, and the energy's
Hessian is 2 w I: well conditioned, where in the plain inner product K damps all but the smoothest
parts of a momentum. One function evaluation is one forward and one backward pass of the data term;
the smoothing is linear and done once per direction, not once per trial step.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from avsm.losses import Losses, velocity_energy

Smoother = Callable[[torch.Tensor], torch.Tensor]
Data = Callable[[torch.Tensor], torch.Tensor]
Report = Callable[[int, torch.Tensor], None]

HISTORY = 5  # pairs that L-BFGS remembers, as in the authors' code
ARMIJO = 1e-4  # sufficient decrease, as in the authors' code
SHRINK = 0.5
TRIALS = 12  # step lengths that a line search tries: down to 1/2048


class Evaluation(NamedTuple):
    """One evaluation: the losses, detached, and the gradient f'(v) + 2 w m of the K metric."""

    losses: Losses
    gradient: torch.Tensor


class Objective:
    """The loss of momenta ``(B, 3, D, H, W)``, differentiated with one pass in each direction.

    Parameters
    ----------
    data
        Gives the similarity term, a scalar, of the velocity.
    smoother
        K.
    weight
        Factor of the energy <m, v>, which is summed over the batch.

    Attributes
    ----------
    evaluations
        Evaluations so far, each one forward and one backward pass.
    """

    def __init__(self, data: Data, smoother: Smoother, weight: float) -> None:
        self.data, self.smoother, self.weight = data, smoother, weight
        self.evaluations = 0

    def losses(self, momentum: torch.Tensor, velocity: torch.Tensor) -> Losses:
        """Give the losses alone; ``velocity`` is K applied to ``momentum``."""
        similarity = self.data(velocity)
        energy = self.weight * velocity_energy(momentum, velocity.detach()).sum()  # Eq. 9
        return Losses(similarity + energy, similarity, energy, torch.zeros_like(energy))

    def __call__(self, momentum: torch.Tensor, velocity: torch.Tensor) -> Evaluation:
        """Evaluate loss and gradient; gradients of other leaves in ``data`` are left in them."""
        self.evaluations += 1
        leaf = velocity.detach().requires_grad_()
        losses = self.losses(momentum.detach(), leaf)
        losses.total.backward()
        voxels = momentum[0, 0].numel()
        # velocity_energy is sum(m v) / (4 voxels); its gradient in the K metric is m / (2 voxels).
        gradient = leaf.grad.add_(momentum.detach(), alpha=self.weight / (2 * voxels))
        return Evaluation(Losses(*(term.detach() for term in losses)), gradient)


def descend_adam(
    objective: Objective, momentum: torch.Tensor, rates: Sequence[float], report: Report
) -> torch.Tensor:
    """Descend with Adam.

    Parameters
    ----------
    objective
        The loss.
    momentum
        Where to start, ``(B, 3, D, H, W)``.
    rates
        The step size of each iteration, in the momentum's units.
    report
        Called with the iteration, from 0, and the loss found there.

    Returns
    -------
    torch.Tensor
        The momentum after the last step.
    """
    leaf = momentum.detach().clone()
    optimiser = torch.optim.Adam([leaf])
    for iteration, rate in enumerate(rates):
        optimiser.param_groups[0]["lr"] = rate
        optimiser.zero_grad()
        found = objective(leaf, objective.smoother(leaf))
        leaf.grad = objective.smoother(found.gradient)  # back to the plain gradient
        optimiser.step()
        report(iteration, found.losses.total)
    return leaf.detach()


def descend_lbfgs(
    objective: Objective,
    momentum: torch.Tensor,
    iterations: int,
    report: Report,
    first_step: float,
    tolerance: float = 0.0,
) -> torch.Tensor:
    """Descend with L-BFGS and a backtracking line search.

    Parameters
    ----------
    objective
        The loss.
    momentum
        Where to start, ``(B, 3, D, H, W)``.
    iterations
        At most so many steps; fewer when no step length lowers the loss.
    report
        Called with the iteration, from 0, and the loss found there.
    first_step
        Largest velocity, in normalised coordinates, that the first step may add.
    tolerance
        Stop when a step lowers the loss by less than this fraction of it.

    Returns
    -------
    torch.Tensor
        The momentum of the lowest loss.
    """
    m, smoother, memory = momentum.detach(), objective.smoother, _Memory(HISTORY)
    if not iterations:
        return m
    v = smoother(m)
    point = objective(m, v)
    dual = smoother(point.gradient)
    for iteration in range(iterations):
        report(iteration, point.losses.total)
        direction = -memory.inverse_hessian(point.gradient)
        push = smoother(direction)
        if not memory.pairs:
            factor = first_step / push.abs().max().clamp_min(torch.finfo(push.dtype).tiny)
            direction, push = direction * factor, push * factor
        slope = float((direction * dual).sum())  # <gradient, direction>_K
        found = _line_search(objective, m, v, direction, push, slope, point)
        if found is None:
            if not memory.pairs:
                break  # not even downhill: converged to rounding
            memory.pairs.clear()
            continue
        length, new = found
        new_dual = smoother(new.gradient)
        change = new.gradient - point.gradient, new_dual - dual
        memory.add(length * direction, length * push, *change)
        gain = float(point.losses.total - new.losses.total)
        m, v, point, dual = m + length * direction, v + length * push, new, new_dual
        if gain <= tolerance * abs(float(point.losses.total)):
            break
    return m


def _line_search(
    objective: Objective,
    momentum: torch.Tensor,
    velocity: torch.Tensor,
    direction: torch.Tensor,
    push: torch.Tensor,
    slope: float,
    point: Evaluation,
) -> tuple[float, Evaluation] | None:
    """Shrink the step until the loss falls enough; None when it never does, or points uphill."""
    length = 1.0
    for _ in range(TRIALS if slope < 0 else 0):
        trial = objective(momentum + length * direction, velocity + length * push)
        # Written so that a loss that is not a number fails it.
        if float(trial.losses.total) <= float(point.losses.total) + ARMIJO * length * slope:
            return length, trial
        length *= SHRINK
    return None


class _Memory:
    """The last steps s and changes of the gradient y, with their images K s and K y."""

    def __init__(self, size: int) -> None:
        self.pairs: deque[tuple[torch.Tensor, ...]] = deque(maxlen=size)
        self.scale = 1.0

    def add(self, s: torch.Tensor, ks: torch.Tensor, y: torch.Tensor, ky: torch.Tensor) -> None:
        """Remember a step, unless the loss curves downwards along it."""
        curvature, square = (ks * y).sum(), (ky * y).sum()
        if curvature > 1e-10 * square:
            self.pairs.append((s, ks, y, ky, 1 / curvature))
            self.scale = curvature / square

    def inverse_hessian(self, gradient: torch.Tensor) -> torch.Tensor:
        """Multiply by the approximate inverse Hessian: the two-loop recursion in the K metric."""
        q, factors = gradient, []
        for _s, ks, y, _, rho in reversed(self.pairs):
            factors.append(rho * (ks * q).sum())
            q = q - factors[-1] * y
        q = q * self.scale if self.pairs else q
        for s, _, _, ky, rho in self.pairs:
            q = q + (factors.pop() - rho * (ky * q).sum()) * s
        return q
