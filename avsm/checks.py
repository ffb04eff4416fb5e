"""Checks of tensor shapes whose messages say what was expected and what was found."""

from __future__ import annotations

import torch


def check_volume(name: str, tensor: torch.Tensor, channels: int | None = None) -> None:
    """Raise ValueError unless ``tensor`` is ``(B, C, D, H, W)`` with at least two voxels a side.

    Parameters
    ----------
    name
        Name of the argument, for the message.
    tensor
        The tensor to check.
    channels
        The number of channels that it must have; any number when None.
    """
    wanted = f"(B, {'C' if channels is None else channels}, D, H, W) with D, H, W of at least 2"
    wrong = tensor.ndim != 5 or min(tensor.shape[2:]) < 2
    if wrong or (channels is not None and tensor.shape[1] != channels):
        raise ValueError(f"{name}: expected shape {wanted}, found {tuple(tensor.shape)}")


def check_same_shape(name: str, tensor: torch.Tensor, other: str, reference: torch.Tensor) -> None:
    """Raise ValueError unless both tensors have the same shape."""
    if tensor.shape != reference.shape:
        raise ValueError(
            f"{name}: expected the shape of {other}, {tuple(reference.shape)}, "
            f"found {tuple(tensor.shape)}"
        )


def check_same_batch(name: str, tensor: torch.Tensor, other: str, reference: torch.Tensor) -> None:
    """Raise ValueError unless both tensors have the same batch size."""
    if tensor.shape[0] != reference.shape[0]:
        raise ValueError(
            f"{name}: expected the batch size of {other}, {reference.shape[0]}, "
            f"found {tensor.shape[0]}"
        )
