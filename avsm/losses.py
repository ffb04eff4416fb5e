"""Image similarity (Eq. 2, 3) and the complete losses of both stages (Eq. 4-6 and Eq. 9-13).

Similarity losses are 1 - similarity by image of the batch: 0 for a perfect match, 1 for none and,
un-squared, 2 for an inverted contrast. Deviation: Eq. 3 writes the similarity itself, which a loss
must fall with. In complete losses n pairs come as a batch of 2 n, item i + n being item i the other
way round. They are summed over directions, as in the paper, and averaged over pairs.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from avsm.errors import choose
from avsm.maps import Affine, check_same_shape, check_volume, compose, compose_affine, identity_map
from avsm.settings import LAMBDA_AS, LAMBDA_VR, LAMBDA_VS

# Added to each variance, so that constant windows count 0 and their gradients stay finite: a
# contrast of a thousandth of the intensity range [0, 1] counts as noise.
FLOOR = 1e-6
WINDOWS = ("paper", "dense", "local")  # see ``level_windows``
CPU_CHUNK = 1 << 18  # voxels at a time, so that products stay in the processor's cache
LOCAL = 9  # voxels a side of the small window of ``local`` ones


class Window(NamedTuple):
    """One kernel of the multi-kernel LNCC: a cube of ``size``^3 samples."""

    weight: float  # in the sum over kernels, omega in Eq. 3
    size: int  # samples per side
    dilation: int = 1  # voxels from sample to sample
    stride: int = 1  # voxels from window to window

    @property
    def extent(self) -> int:
        """Voxels from the first to the last sample, both counted."""
        return self.dilation * (self.size - 1) + 1


def paper_windows(shape: Sequence[int]) -> tuple[Window, ...]:
    """Give the paper's windows: S/4 and S/2 for the smallest size S of (D, H, W), dilation 2.

    Their weights are .3 and .7. Deviation: the paper's text says "stride S/4"; the authors' code
    strides by a quarter of each window, rounded (5 and 10 voxels for S = 80), and so do we.
    """
    smallest = min(int(n) for n in shape)
    if smallest < 8:
        raise ValueError(f"shape: expected at least 8 voxels a side, found {tuple(shape)}")
    return _dilated(0.3, smallest // 4), _dilated(0.7, smallest // 2)


def _dilated(weight: float, size: int) -> Window:
    return Window(weight, size, dilation=2, stride=max((size + 1) // 4, 1))


def level_windows(shape: Sequence[int], scale: float, windows: str) -> tuple[Window, ...]:
    """Give the windows of mk-LNCC on a level ``shape`` of an image pyramid (Section 3, baselines).

    They are S/4 and S/2 at scale 1, S/2 alone below: ``paper``, of dilation 2, which read one voxel
    in eight; ``dense``, of the same extents, which read every one; or ``local``, dense ones with
    half of the weight, and one of 9 voxels a side.
    """
    choose("windows", windows, WINDOWS)
    smallest = min(int(n) for n in shape)
    kernels = paper_windows(shape) if scale == 1 else (_dilated(1.0, max(2, smallest // 2)),)
    if windows == "paper":
        return kernels
    dense = tuple(Window(w.weight, w.extent, dilation=1, stride=w.stride) for w in kernels)
    if windows == "dense":
        return dense
    small = Window(0.5, min(LOCAL, smallest), dilation=1, stride=2)
    return (small, *(window._replace(weight=0.5 * window.weight) for window in dense))


class Moments(NamedTuple):
    """Averages over windows, each ``(B, 1, d, h, w)`` for d x h x w windows."""

    x: Tensor
    y: Tensor
    xx: Tensor
    yy: Tensor
    xy: Tensor


@functools.lru_cache(maxsize=64)
def membership(
    size: int, window: int, dilation: int, stride: int, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """Say which of ``size`` voxels each window averages: (windows, size), entries 1 / window."""
    with torch.inference_mode(False):  # a cached tensor must stay usable in training
        starts = torch.arange(0, size - dilation * (window - 1), stride)
        samples = starts[:, None] + dilation * torch.arange(window)
        matrix = torch.zeros(len(starts), size, dtype=dtype)
        matrix.scatter_(1, samples, 1 / window)
        return matrix.to(device)


def window_moments(x: Tensor, y: Tensor, window: int, dilation: int, stride: int) -> Moments:
    """Average x, y, x^2, y^2 and x y over all windows inside images ``(B, 1, D, H, W)``.

    ``window`` is in samples a side, ``dilation`` in voxels from sample to sample, ``stride`` in
    voxels from window to window. Along each axis this is a product with a thin matrix. The products
    of images are formed a few planes at a time and never stored: memory traffic is what this costs.
    """
    matrices = (membership(n, window, dilation, stride, x.dtype, x.device) for n in x.shape[2:])
    return Moments(*_WindowMoments.apply(x, y, *matrices).unbind())


class _WindowMoments(torch.autograd.Function):
    """The five averages, stacked; mz, my and mx are the ``membership`` of each axis."""

    @staticmethod
    def forward(ctx: Any, *tensors: Tensor) -> Tensor:
        ctx.save_for_backward(*tensors)
        x, y, mz, my, mx = tensors
        planes = x.new_empty(5, *x.shape[:3], my.shape[0], mx.shape[0])
        for part in _chunks(x):
            a, b = x[:, :, part], y[:, :, part]
            for index, product in enumerate((a, b, a * a, b * b, a * b)):
                planes[index, :, :, part] = my @ (product @ mx.T)
        return (mz @ planes.flatten(-2)).unflatten(-1, planes.shape[-2:])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, y, mz, my, mx = ctx.saved_tensors
        planes = (mz.T @ gradient.flatten(-2)).unflatten(-1, gradient.shape[-2:])
        # In the order of ``Moments``; x y is read for both images.
        needed = (*ctx.needs_input_grad[:2], *ctx.needs_input_grad[:2], True)
        grad_x = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        grad_y = torch.empty_like(y) if ctx.needs_input_grad[1] else None
        for part in _chunks(x):
            a, b = x[:, :, part], y[:, :, part]
            g = [
                my.T @ (plane[:, :, part] @ mx) if need else None
                for plane, need in zip(planes, needed, strict=True)
            ]
            if grad_x is not None:
                grad_x[:, :, part] = g[0].addcmul_(a, g[2], value=2).addcmul_(b, g[4])
            if grad_y is not None:
                grad_y[:, :, part] = g[1].addcmul_(b, g[3], value=2).addcmul_(a, g[4])
        return grad_x, grad_y, None, None, None


def _chunks(image: Tensor) -> list[slice]:
    """Cut the planes of axis D into runs; a GPU takes them all at once."""
    depth = image.shape[2]
    on_cpu = image.device.type == "cpu"
    planes = max(1, CPU_CHUNK * depth // image.numel()) if on_cpu else depth
    return [slice(start, start + planes) for start in range(0, depth, planes)]


def lncc(
    warped: Tensor, fixed: Tensor, window: Window, squared: bool = False, floor: float = FLOOR
) -> Tensor:
    """Give the local correlation of images ``(B, 1, D, H, W)`` for one window size (Eq. 2):
    ``(B,)``.

    It is the mean over all windows inside the images; those of constant intensity count 0. With
    ``squared``, squared correlations are averaged, as in the authors' code.
    """
    _check_pair(warped, fixed)
    if window.extent > min(fixed.shape[2:]):
        raise ValueError(
            f"window: expected an extent of at most {min(fixed.shape[2:])} voxels, the smallest "
            f"side of the image, found {window.extent} (size {window.size}, "
            f"dilation {window.dilation})"
        )
    # What dilation and stride both skip is never read: drop it first.
    step = math.gcd(window.dilation, window.stride)
    x, y = (_centre(image[..., ::step, ::step, ::step]) for image in (warped, fixed))
    mean = window_moments(x, y, window.size, window.dilation // step, window.stride // step)
    covariance = mean.xy - mean.x * mean.y
    variances = mean.xx - mean.x.square(), mean.yy - mean.y.square()
    local = _correlation(covariance, *variances, squared, floor)  # Eq. 2, one per window
    return local.mean(dim=(1, 2, 3, 4))  # Eq. 2, 1/N_s sum over windows


def mk_lncc_loss(
    warped: Tensor,
    fixed: Tensor,
    windows: Sequence[Window] | None = None,
    squared: bool = False,
    floor: float = FLOOR,
) -> Tensor:
    """Give 1 - Eq. 3 of images in [0, 1]: ``(B,)``; window weights sum to 1, None: the paper's."""
    _check_pair(warped, fixed)
    if windows is None:
        windows = paper_windows(fixed.shape[2:])
    weights = [window.weight for window in windows]
    if not windows or abs(sum(weights) - 1) > 1e-6:
        raise ValueError(f"windows: expected weights that sum to 1, found {weights}")
    return 1 - sum(w.weight * lncc(warped, fixed, w, squared, floor) for w in windows)  # Eq. 3


def ncc_loss(warped: Tensor, fixed: Tensor, squared: bool = False, floor: float = FLOOR) -> Tensor:
    """Give 1 - the normalised cross-correlation of whole images: ``(B,)``."""
    _check_pair(warped, fixed)
    x, y = _centre(warped), _centre(fixed)
    axes = (1, 2, 3, 4)
    variances = x.square().mean(dim=axes), y.square().mean(dim=axes)
    return 1 - _correlation((x * y).mean(dim=axes), *variances, squared, floor)


def _check_pair(warped: Tensor, fixed: Tensor) -> None:
    check_volume("warped", warped, channels=1)
    check_same_shape("warped", warped, "fixed", fixed)


def _centre(image: Tensor) -> Tensor:
    """Subtract each image's mean, a constant in the gradient: float32 then loses fewer digits."""
    return image - image.detach().mean(dim=(2, 3, 4), keepdim=True)


def _correlation(
    covariance: Tensor, variance: Tensor, other: Tensor, squared: bool, floor: float
) -> Tensor:
    """Divide a covariance by the standard deviations; 0, with a finite gradient, for constants."""
    product = (variance.clamp_min(0) + floor) * (other.clamp_min(0) + floor)
    return covariance.square() / product if squared else covariance * product.rsqrt()


class Losses(NamedTuple):
    """The loss and its weighted terms, each a scalar: ``total`` is their sum."""

    total: Tensor
    similarity: Tensor
    regularisation: Tensor
    symmetry: Tensor


def both_directions(fixed: Tensor, moving: Tensor) -> tuple[Tensor, Tensor]:
    """Batch n pairs both ways: fixed and moving images ``(2 n, 1, D, H, W)``."""
    check_same_shape("moving", moving, "fixed", fixed)
    return torch.cat([fixed, moving]), torch.cat([moving, fixed])


def _halves(tensor: Tensor) -> tuple[Tensor, Tensor]:
    if tensor.shape[0] % 2:
        raise ValueError(
            "batch: expected an even size, the second half being the pairs of the first half the "
            f"other way round, found {tensor.shape[0]}"
        )
    first, second = tensor.chunk(2)
    return first, second


def _sum_directions(per_item: Tensor) -> Tensor:
    """Sum over the two directions, average over the pairs."""
    return 2 * per_item.mean()


def _total(similarity: Tensor, regularisation: Tensor, symmetry: Tensor) -> Losses:
    """Complete a loss of the first two terms by item, ``(B,)``, and the third, a scalar."""
    similarity, regularisation = _sum_directions(similarity), _sum_directions(regularisation)
    return Losses(similarity + regularisation + symmetry, similarity, regularisation, symmetry)


def affine_deviation(affine: Affine) -> Tensor:
    """Give the squared distance from the identity, Eq. 4 without its weight: ``(B,)``."""
    residual = affine.matrix - torch.eye(3, dtype=affine.matrix.dtype, device=affine.matrix.device)
    return residual.square().sum(dim=(1, 2)) + affine.offset.square().sum(dim=1)  # Eq. 4


def affine_asymmetry(forward: Affine, backward: Affine) -> Tensor:
    """Give the squared distance of backward(forward(x)) from x, unweighted Eq. 5: ``(B,)``."""
    return affine_deviation(compose_affine(backward, forward))  # Eq. 5


def affine_regularisation_weight(epoch: float, constant: float = 10, decay: float = 4) -> float:
    """Give the weight lambda_ar of Eq. 4 in an epoch n from 0 (Eq. 13): C K / (K + exp(n / K)).

    By the paper's constants C and K (``decay``, in epochs) it falls from 8.0 to 0.
    """
    # Eq. 13 with numerator and denominator divided by exp(n / K): no overflow in late epochs.
    fading = math.exp(-epoch / decay)
    return constant * decay * fading / (decay * fading + 1)


def affine_losses(
    similarity: Tensor, affine: Affine, lambda_ar: float, lambda_as: float = LAMBDA_AS
) -> Losses:
    """Give the complete affine loss (Eq. 6).

    ``similarity`` is the loss of each item, ``(B,)``, ``affine`` what the last step composed,
    ``lambda_ar`` the weight of its deviation from the identity, ``lambda_as`` of the symmetry.
    """
    deviation = lambda_ar * affine_deviation(affine)  # Eq. 4
    (a, a_ts), (b, b_ts) = _halves(affine.matrix), _halves(affine.offset)
    symmetry = lambda_as * affine_asymmetry(Affine(a, b), Affine(a_ts, b_ts)).mean()  # Eq. 5
    return _total(similarity, deviation, symmetry)  # Eq. 6


def velocity_energy(momentum: Tensor, velocity: Tensor) -> Tensor:
    """Give <m, v> of Eq. 9 as an integral over the unit cube, in the cube's units: ``(B,)``.

    m and v = K m are ``(B, 3, D, H, W)`` in normalised coordinates, twice the cube's: hence the
    quarter. Deviation: the authors' code sums over voxels of sides 1 / (n - 1), 5 per cent more,
    and drops negative products, which makes it no norm any more.
    """
    check_volume("momentum", momentum, channels=3)
    check_same_shape("velocity", velocity, "momentum", momentum)
    return (momentum * velocity).sum(dim=1).mean(dim=(1, 2, 3)) / 4  # Eq. 9


def asymmetry(phi: Tensor, phi_ts: Tensor) -> Tensor:
    """Give the distance of phi(phi_ts(x)) from x, Eq. 10 without its weight: ``(B,)``.

    Maps are ``(B, 3, D, H, W)``. Deviation: as in the authors' code it is the mean over voxels and
    components of squared distances in the unit cube, with weight 500, whatever the resolution; Eq.
    10 has a sum, with weight 1e-4. For 80x192x192 voxels it is a sum of weight 5.7e-5.
    """
    residual = compose(phi, phi_ts) - identity_map(phi_ts.shape[2:], phi_ts)
    return (residual / 2).square().mean(dim=(1, 2, 3, 4))  # Eq. 10


def step_losses(
    similarity: Tensor,
    phi: Tensor,
    momentum: Tensor,
    velocity: Tensor,
    lambda_vr: float = LAMBDA_VR,
    lambda_vs: float = LAMBDA_VS,
) -> Losses:
    """Give the complete loss of one vSVF step (Eq. 11).

    ``similarity`` is the loss of each item, ``(B,)``, ``phi`` the maps after the step, ``momentum``
    and ``velocity`` its m and v = K m, all ``(B, 3, D, H, W)``; ``lambda_vr`` weighs their energy,
    ``lambda_vs`` the symmetry.
    """
    energy = lambda_vr * velocity_energy(momentum, velocity)  # Eq. 9
    symmetry = torch.zeros_like(energy[0])
    if lambda_vs:
        symmetry = lambda_vs * asymmetry(*_halves(phi)).mean()  # Eq. 10
    return _total(similarity, energy, symmetry)  # Eq. 11


def sum_losses(steps: Sequence[Losses]) -> Losses:
    """Add the losses of all steps, name by name (Eq. 12)."""
    return Losses(*(torch.stack(terms).sum() for terms in zip(*steps, strict=True)))
