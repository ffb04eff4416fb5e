"""Full precision for geometry and statistics, whatever autocast says.

A bfloat16 coordinate in [-1, 1] is only good to a quarter of a per cent, which is a whole voxel of
a large image. Networks may run in half precision; maps, flows and window sums never do.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import torch

Function = TypeVar("Function", bound=Callable[..., Any])
HALF = (torch.float16, torch.bfloat16)


def full_precision(function: Function) -> Function:
    """Wrap ``function`` to run outside autocast, its half-precision arguments made float32.

    Tensors may be arguments of their own or sit in (named) tuples and lists. float32 and float64
    tensors are passed on as they are.
    """

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        tensor = _first_tensor((*args, *kwargs.values()))
        if tensor is None:
            return function(*args, **kwargs)
        args = tuple(_promote(value) for value in args)
        kwargs = {key: _promote(value) for key, value in kwargs.items()}
        kind = tensor.device.type
        if not torch.is_autocast_enabled(kind):
            return function(*args, **kwargs)
        with torch.autocast(kind, enabled=False):
            return function(*args, **kwargs)

    return wrapped  # type: ignore[return-value]


def _first_tensor(values: tuple[Any, ...] | list[Any]) -> torch.Tensor | None:
    for value in values:
        if isinstance(value, torch.Tensor):
            return value
        if isinstance(value, tuple | list):
            found = _first_tensor(value)
            if found is not None:
                return found
    return None


def _promote(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.float() if value.dtype in HALF else value
    if isinstance(value, tuple | list):
        items = [_promote(item) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return value
