"""Image similarity (Eq. 2, 3) and the complete losses of both stages (Eq. 6 and Eq. 9-12).

Similarity losses are 1 - similarity, one value per image of the batch: 0 for a perfect match (up to
positive scale and offset), 1 for none and, un-squared, 2 for an inverted contrast. Deviation: Eq. 3
writes the similarity itself, which a loss must fall with.

In the complete losses both directions of n pairs come as one batch of 2 n: item i registers a pair
one way, item i + n the other way. Sums over the two directions are as in the paper; over pairs it
is the mean.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from avsm.affine import Affine, affine_asymmetry, affine_deviation
from avsm.errors import choose
from avsm.maps import check_same_shape, check_volume, compose, identity_map
from avsm.moments import window_moments
from avsm.settings import LAMBDA_AS, LAMBDA_VR, LAMBDA_VS

# Added to each variance, so that constant windows count 0 and their gradients stay finite: a
# contrast of a thousandth of the intensity range [0, 1] counts as noise.
FLOOR = 1e-6
WINDOWS = ("paper", "dense", "local")  # see ``level_windows``
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

    Their weights are .3 and .7; for 80x192x192 their sizes are 20 and 40, their strides 5 and 10.
    Deviation: the paper's text says "stride S/4"; the authors' code strides by a quarter of each
    window, rounded, and so do we.
    """
    smallest = min(int(n) for n in shape)
    if smallest < 8:
        raise ValueError(f"shape: expected at least 8 voxels a side, found {tuple(shape)}")
    return _dilated(0.3, smallest // 4), _dilated(0.7, smallest // 2)


def dense_windows(shape: Sequence[int]) -> tuple[Window, ...]:
    """Give windows of the paper's extents, weights and strides that read every voxel.

    With dilation 2 and an even stride all windows read the same eighth of the voxels, which costs
    accuracy on small grids.
    """
    return tuple(map(_undilated, paper_windows(shape)))


def _dilated(weight: float, size: int) -> Window:
    return Window(weight, size, dilation=2, stride=max((size + 1) // 4, 1))


def _undilated(window: Window) -> Window:
    return Window(window.weight, window.extent, dilation=1, stride=window.stride)


def level_windows(shape: Sequence[int], scale: float, windows: str) -> tuple[Window, ...]:
    """Give the windows of mk-LNCC on a level of an image pyramid (Section 3, baseline methods).

    They are S/4 and S/2 at scale 1, S/2 alone below. ``windows`` are ``paper``, of dilation 2;
    ``dense``, of the same extents, which read every voxel; or ``local``, those with half of the
    weight, and one of 9 voxels a side with the other half. ``shape`` is that of the level.
    """
    choose("windows", windows, WINDOWS)
    smallest = min(int(n) for n in shape)
    kernels = paper_windows(shape) if scale == 1 else (_dilated(1.0, max(2, smallest // 2)),)
    if windows == "paper":
        return kernels
    dense = tuple(map(_undilated, kernels))
    if windows == "dense":
        return dense
    small = Window(0.5, min(LOCAL, smallest), dilation=1, stride=2)
    return (small, *(window._replace(weight=0.5 * window.weight) for window in dense))


def lncc(
    warped: Tensor, fixed: Tensor, window: Window, squared: bool = False, floor: float = FLOOR
) -> Tensor:
    """Give the local normalised cross-correlation of one window size (Eq. 2): ``(B,)``.

    It is the mean over all windows inside the images ``(B, 1, D, H, W)``; those of constant
    intensity count 0. With ``squared``, squared correlations are averaged, as in the authors' code.
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
    """Give the multi-kernel LNCC loss, 1 - Eq. 3, of images in [0, 1]: ``(B,)``.

    The weights of the windows sum to 1; None takes ``paper_windows``.
    """
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
    """Subtract the mean of each image: correlation does not change, float32 loses fewer digits.

    For the same reason the mean counts as a constant in the gradient.
    """
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


def affine_losses(
    similarity: Tensor, affine: Affine, lambda_ar: float, lambda_as: float = LAMBDA_AS
) -> Losses:
    """Give the complete affine loss (Eq. 6).

    ``similarity`` is the loss of each item, ``(B,)``, ``affine`` the composed parameters of the
    last step, ``lambda_ar`` the weight of their deviation from the identity in this epoch, see
    ``affine_regularisation_weight``, and ``lambda_as`` that of the symmetry.
    """
    deviation = lambda_ar * affine_deviation(affine)  # Eq. 4
    (a, a_ts), (b, b_ts) = _halves(affine.matrix), _halves(affine.offset)
    symmetry = lambda_as * affine_asymmetry(Affine(a, b), Affine(a_ts, b_ts)).mean()  # Eq. 5
    return _total(similarity, deviation, symmetry)  # Eq. 6


def velocity_energy(momentum: Tensor, velocity: Tensor) -> Tensor:
    """Give <m, v> of Eq. 9 as an integral over the unit cube, in the cube's units: ``(B,)``.

    m and v = K m are ``(B, 3, D, H, W)`` in normalised coordinates; lengths in the unit cube are
    half of those, hence the quarter. Deviation: the authors' code sums voxels times the product of
    spacings 1 / (n - 1), 5 per cent more than the mean used here, and drops negative products,
    which makes it no norm any more.
    """
    check_volume("momentum", momentum, channels=3)
    check_same_shape("velocity", velocity, "momentum", momentum)
    return (momentum * velocity).sum(dim=1).mean(dim=(1, 2, 3)) / 4  # Eq. 9


def asymmetry(phi: Tensor, phi_ts: Tensor) -> Tensor:
    """Give the distance of phi(phi_ts(x)) from x, Eq. 10 without its weight: ``(B,)``.

    The maps of both directions are ``(B, 3, D, H, W)``, at full or at low resolution. Deviation:
    Eq. 10 has a squared norm, that is a sum, and the weight 1e-4. As in the authors' code this is
    the mean over voxels and components of squared distances in the unit cube, with weight 500, so
    that the weight does not depend on the resolution. At 80x192x192 voxels that is a sum with
    weight 500 / (3 x 80 x 192 x 192) = 5.7e-5.
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
    ``lambda_vs`` the symmetry, which is not evaluated at 0.
    """
    energy = lambda_vr * velocity_energy(momentum, velocity)  # Eq. 9
    symmetry = torch.zeros_like(energy[0])
    if lambda_vs:
        symmetry = lambda_vs * asymmetry(*_halves(phi)).mean()  # Eq. 10
    return _total(similarity, energy, symmetry)  # Eq. 11


def sum_losses(steps: Sequence[Losses]) -> Losses:
    """Add the losses of all steps, name by name (Eq. 12)."""
    return Losses(*(torch.stack(terms).sum() for terms in zip(*steps, strict=True)))
