"""Image similarity: normalised cross-correlation, whole and multi-kernel local (Eq. 2, 3).

Losses are 1 - similarity, one value per image of the batch: 0 for a perfect match (up to positive
scale and offset), 1 for none and, un-squared, 2 for an inverted contrast. Deviation: Eq. 3 writes
the similarity itself, which a loss must fall with.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch

from avsm.checks import check_same_shape, check_volume
from avsm.moments import window_moments

# Added to each variance: a contrast of a thousandth of the intensity range [0, 1] counts as noise.
FLOOR = 1e-6


class Window(NamedTuple):
    """One kernel of the multi-kernel LNCC: a cube of ``size``^3 samples.

    Attributes
    ----------
    weight
        Its weight in the sum over kernels (omega in Eq. 3).
    size
        Samples per side.
    dilation
        Voxels from sample to sample.
    stride
        Voxels from window to window.
    """

    weight: float
    size: int
    dilation: int = 1
    stride: int = 1

    @property
    def extent(self) -> int:
        """Voxels from the first to the last sample, both counted."""
        return self.dilation * (self.size - 1) + 1


def paper_windows(shape: Sequence[int]) -> tuple[Window, ...]:
    """Give the paper's windows: S/4 and S/2 for the smallest size S, dilation 2.

    Deviation: the paper's text says "stride S/4"; the authors' code strides by a quarter of each
    window, rounded, and so do we.

    Parameters
    ----------
    shape
        (D, H, W) of the images.

    Returns
    -------
    tuple of Window
        Weights .3 and .7; for 80x192x192 sizes 20 and 40 with strides 5 and 10.
    """
    smallest = _smallest(shape, least=8)
    sizes = (smallest // 4, smallest // 2)
    return tuple(
        Window(weight, size, dilation=2, stride=max((size + 1) // 4, 1))
        for weight, size in zip((0.3, 0.7), sizes, strict=True)
    )


def dense_windows(shape: Sequence[int]) -> tuple[Window, ...]:
    """Give windows of the paper's extents, weights and strides that read every voxel.

    With dilation 2 and an even stride all windows read the same eighth of the voxels, which costs
    accuracy on small grids.
    """
    return tuple(
        Window(window.weight, window.extent, dilation=1, stride=window.stride)
        for window in paper_windows(shape)
    )


def _smallest(shape: Sequence[int], least: int) -> int:
    smallest = min(int(n) for n in shape)
    if smallest < least:
        raise ValueError(f"shape: expected at least {least} voxels a side, found {tuple(shape)}")
    return smallest


def _correlation(
    covariance: torch.Tensor,
    variance: torch.Tensor,
    other: torch.Tensor,
    squared: bool,
    floor: float,
) -> torch.Tensor:
    """Divide a covariance by the standard deviations; 0, with a finite gradient, for constants."""
    product = (variance.clamp_min(0) + floor) * (other.clamp_min(0) + floor)
    if squared:
        return covariance.square() / product
    return covariance * product.rsqrt()


def _centre(image: torch.Tensor) -> torch.Tensor:
    """Subtract the mean of each image: correlation does not change, float32 loses fewer digits.

    For the same reason the mean counts as a constant in the gradient.
    """
    return image - image.detach().mean(dim=(2, 3, 4), keepdim=True)


def _check_pair(warped: torch.Tensor, fixed: torch.Tensor) -> None:
    check_volume("warped", warped, channels=1)
    check_same_shape("warped", warped, "fixed", fixed)


def lncc(
    warped: torch.Tensor,
    fixed: torch.Tensor,
    window: Window,
    squared: bool = False,
    floor: float = FLOOR,
) -> torch.Tensor:
    """Give the local normalised cross-correlation of one window size (Eq. 2).

    Parameters
    ----------
    warped, fixed
        ``(B, 1, D, H, W)``, intensities in [0, 1].
    window
        Size, dilation and stride; its weight is not used.
    squared
        Average squared correlations, as the authors' code does, in place of the paper's.
    floor
        Added to the variances, so that constant windows count 0 and their gradients stay finite.

    Returns
    -------
    torch.Tensor
        ``(B,)``, the mean over all windows inside the image. Windows of constant intensity count 0.
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
    variance_x = mean.xx - mean.x.square()
    variance_y = mean.yy - mean.y.square()
    covariance = mean.xy - mean.x * mean.y
    local = _correlation(
        covariance, variance_x, variance_y, squared, floor
    )  # Eq. 2, one per window
    return local.mean(dim=(1, 2, 3, 4))  # Eq. 2, 1/N_s sum over windows


def mk_lncc_loss(
    warped: torch.Tensor,
    fixed: torch.Tensor,
    windows: Sequence[Window] | None = None,
    squared: bool = False,
    floor: float = FLOOR,
) -> torch.Tensor:
    """Give the multi-kernel LNCC loss, 1 - Eq. 3.

    Parameters
    ----------
    warped, fixed
        ``(B, 1, D, H, W)``, intensities in [0, 1].
    windows
        The kernels, weights summing to 1; None takes ``paper_windows`` of the images' shape.
    squared
        Average squared correlations, as the authors' code does.
    floor
        Added to the variances, see ``lncc``.

    Returns
    -------
    torch.Tensor
        ``(B,)``.
    """
    _check_pair(warped, fixed)
    if windows is None:
        windows = paper_windows(fixed.shape[2:])
    if not windows or abs(sum(window.weight for window in windows) - 1) > 1e-6:
        raise ValueError(
            "windows: expected weights that sum to 1, "
            f"found {[window.weight for window in windows]}"
        )
    return 1 - sum(w.weight * lncc(warped, fixed, w, squared, floor) for w in windows)  # Eq. 3


def ncc_loss(
    warped: torch.Tensor, fixed: torch.Tensor, squared: bool = False, floor: float = FLOOR
) -> torch.Tensor:
    """Give 1 - the normalised cross-correlation of whole images: ``(B,)``."""
    _check_pair(warped, fixed)
    x, y = _centre(warped), _centre(fixed)
    axes = (1, 2, 3, 4)
    variances = x.square().mean(dim=axes), y.square().mean(dim=axes)
    return 1 - _correlation((x * y).mean(dim=axes), *variances, squared, floor)
