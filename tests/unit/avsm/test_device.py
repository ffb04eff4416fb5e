"""Where to compute, and in which precision."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch

from avsm.device import autocast, find_device, precision_name
from avsm.errors import UserError


def test_no_half_precision_where_a_gpu_would_emulate_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cards such as the GTX 1080 Ti have no bfloat16, but PyTorch says that they support it."""
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation
    )
    assert isinstance(autocast(torch.device("cuda")), nullcontext)


@pytest.mark.parametrize("fast", [False, True])
def test_precision_by_name(monkeypatch: pytest.MonkeyPatch, fast: bool) -> None:
    monkeypatch.setattr("avsm.device._fast_bfloat16", lambda device: fast)
    device = torch.device("cpu")
    named = {name: precision_name(device, name) for name in ("auto", "float32", "bfloat16")}
    assert named == {
        "auto": "bfloat16" if fast else "float32", "float32": "float32", "bfloat16": "bfloat16",
    }  # fmt: skip
    for name, expected in named.items():
        with autocast(device, name):
            assert torch.is_autocast_enabled("cpu") is (expected == "bfloat16")
    with pytest.raises(UserError, match="did you mean 'float32'"):
        precision_name(device, "float23")


def test_unknown_device_names_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'cuda'"):
        find_device("cud")
