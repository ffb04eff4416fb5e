"""Checks of tensor shapes whose messages say what was expected and what was found."""

from torch import Tensor


def check_volume(name: str, tensor: Tensor, channels: int | None = None) -> None:
    """Raise ValueError unless ``tensor`` is ``(B, C, D, H, W)`` with at least two voxels a side.

    ``name`` is the argument's, for the message; ``channels`` the number it must have, None any.
    """
    wanted = f"(B, {'C' if channels is None else channels}, D, H, W) with D, H, W of at least 2"
    wrong = tensor.ndim != 5 or min(tensor.shape[2:]) < 2
    if wrong or (channels is not None and tensor.shape[1] != channels):
        raise ValueError(f"{name}: expected shape {wanted}, found {tuple(tensor.shape)}")


def check_same_shape(name: str, tensor: Tensor, other: str, reference: Tensor) -> None:
    """Raise ValueError unless both tensors have the same shape."""
    found, expected = tuple(tensor.shape), tuple(reference.shape)
    if found != expected:
        raise ValueError(f"{name}: expected the shape of {other}, {expected}, found {found}")


def check_same_batch(name: str, tensor: Tensor, other: str, reference: Tensor) -> None:
    """Raise ValueError unless both tensors have the same batch size."""
    found, expected = tensor.shape[0], reference.shape[0]
    if found != expected:
        raise ValueError(f"{name}: expected the batch size of {other}, {expected}, found {found}")
