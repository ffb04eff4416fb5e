"""Descent of a loss over momenta: Adam, and L-BFGS in the metric of the regulariser.

The loss is f(K m) + w <m, K m>, a data term of the velocity v = K m and the energy. In the inner
product <a, b>_K = <a, K b> its gradient is f'(v) + 2 w m and the energy's Hessian 2 w I: well
conditioned, where in the plain one K damps all but the smoothest parts of a momentum. An evaluation
is one pass of the data term in each direction; K is applied once per direction.
"""

import logging
import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from avsm.losses import velocity_energy

Function = Callable[[Tensor], Tensor]
Report = Callable[[int, Tensor], None]  # of an iteration, from 0, and its loss

logger = logging.getLogger(__name__)

LOG_EVERY = 20  # iterations
HISTORY = 5  # pairs that L-BFGS remembers, as in the authors' code
ARMIJO = 1e-4  # sufficient decrease, as in the authors' code
SHRINK = 0.5
TRIALS = 12  # step lengths that a line search tries: down to 1/2048


def reporter(name: str, scale: float, iterations: int) -> Report:
    """Make what logs the losses of a level now and then, and stops where one is not finite."""

    def report(iteration: int, loss: Tensor) -> None:
        value = float(loss)
        if not math.isfinite(value):
            raise FloatingPointError(
                f"{name}: expected a finite loss, found {value} at scale {scale:g}, "
                f"iteration {iteration + 1}; a smaller learning rate may help"
            )
        if iteration % LOG_EVERY == 0 or iteration + 1 == iterations:
            line = "%s: scale %g, iteration %d/%d, loss %.5f"
            logger.info(line, name, scale, iteration + 1, iterations, value)

    return report


class Evaluation(NamedTuple):
    """The total loss, detached, and the gradient f'(v) + 2 w m of the K metric."""

    loss: Tensor
    gradient: Tensor


class Objective:
    """The loss of momenta ``(B, 3, D, H, W)``, differentiated with one pass in each direction.

    ``data`` gives the similarity term, a scalar, of the velocity; ``weight`` is that of <m, v>.
    """

    def __init__(self, data: Function, smoother: Function, weight: float) -> None:
        self.data, self.smoother, self.weight = data, smoother, weight
        self.evaluations = 0

    def __call__(self, momentum: Tensor, velocity: Tensor) -> Evaluation:
        """Evaluate at a momentum and its velocity, K applied to it."""
        self.evaluations += 1
        leaf, momentum = velocity.detach().requires_grad_(), momentum.detach()
        energy = self.weight * velocity_energy(momentum, velocity.detach()).sum()  # Eq. 9
        loss = self.data(leaf) + energy
        loss.backward()
        voxels = momentum[0, 0].numel()
        # velocity_energy is sum(m v) / (4 voxels); its gradient in the K metric is m / (2 voxels).
        gradient = leaf.grad.add_(momentum, alpha=self.weight / (2 * voxels))
        return Evaluation(loss.detach(), gradient)


def descend_adam(
    objective: Objective, momentum: Tensor, rates: Sequence[float], report: Report
) -> Tensor:
    """Descend from a momentum ``(B, 3, D, H, W)`` with Adam, at a rate for each iteration."""
    leaf = momentum.detach().clone()
    optimiser = torch.optim.Adam([leaf])
    for iteration, rate in enumerate(rates):
        optimiser.param_groups[0]["lr"] = rate
        optimiser.zero_grad()
        found = objective(leaf, objective.smoother(leaf))
        leaf.grad = objective.smoother(found.gradient)  # back to the plain gradient
        optimiser.step()
        report(iteration, found.loss)
    return leaf.detach()


def descend_lbfgs(
    objective: Objective,
    momentum: Tensor,
    iterations: int,
    report: Report,
    first_step: float,
) -> Tensor:
    """Descend from a momentum ``(B, 3, D, H, W)`` with L-BFGS; give that of the lowest loss.

    A backtracking line search chooses steps, until none lowers the loss. The first adds a velocity
    of at most ``first_step``, in normalised coordinates.
    """
    m, smoother, memory = momentum.detach(), objective.smoother, _Memory()
    if not iterations:
        return m
    v = smoother(m)
    point = objective(m, v)
    dual = smoother(point.gradient)
    for iteration in range(iterations):
        report(iteration, point.loss)
        direction = -memory.inverse_hessian(point.gradient)
        push = smoother(direction)
        if not memory.pairs:
            factor = first_step / push.abs().max().clamp_min(torch.finfo(push.dtype).tiny)
            direction, push = direction * factor, push * factor
        slope = float((direction * dual).sum())  # <gradient, direction>_K
        length = 1.0
        for _ in range(TRIALS if slope < 0 else 0):
            new = objective(m + length * direction, v + length * push)
            # Written so that a loss that is not a number fails it.
            if float(new.loss) <= float(point.loss) + ARMIJO * length * slope:
                break
            length *= SHRINK
        else:  # no length lowers the loss enough, or the direction points uphill
            if not memory.pairs:
                break  # not even along the gradient: converged to rounding
            memory.pairs.clear()
            continue
        new_dual = smoother(new.gradient)
        change = new.gradient - point.gradient, new_dual - dual
        memory.add(length * direction, length * push, *change)
        gain = float(point.loss - new.loss)
        m, v, point, dual = m + length * direction, v + length * push, new, new_dual
        if gain <= 0:
            break
    return m


class _Memory:
    """The last steps s and changes of the gradient y, with their images K s and K y."""

    def __init__(self) -> None:
        self.pairs: deque[tuple[Tensor, ...]] = deque(maxlen=HISTORY)
        self.scale = 1.0

    def add(self, s: Tensor, ks: Tensor, y: Tensor, ky: Tensor) -> None:
        """Remember a step, unless the loss curves downwards along it."""
        curvature, square = (ks * y).sum(), (ky * y).sum()
        if curvature > 1e-10 * square:
            self.pairs.append((s, ks, y, ky, 1 / curvature))
            self.scale = curvature / square

    def inverse_hessian(self, gradient: Tensor) -> Tensor:
        """Multiply by the approximate inverse Hessian: the two-loop recursion in the K metric."""
        q, factors = gradient, []
        for _s, ks, y, _, rho in reversed(self.pairs):
            factors.append(rho * (ks * q).sum())
            q = q - factors[-1] * y
        q = q * self.scale if self.pairs else q
        for s, _, _, ky, rho in self.pairs:
            q = q + (factors.pop() - rho * (ky * q).sum()) * s
        return q
