"""First and second moments of two images over cubic windows, by separable sums.

Along each axis the averages of all windows are a product with a thin matrix, so that the cost does
not grow with the window and the data shrinks from axis to axis by the stride. The products x^2, y^2
and xy are formed a few planes at a time, forward and backward, and never stored: memory traffic is
what this costs.
"""

import functools
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

CPU_CHUNK = 1 << 18  # voxels at a time, so that the products stay in the processor's cache


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

    ``window`` is the samples per side, ``dilation`` the voxels from sample to sample, ``stride``
    those from window to window. The averages are differentiable once in both images.
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
