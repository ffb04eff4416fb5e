"""Where to compute, and in which precision."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch

from avsm.device import autocast, find_device
from avsm.errors import UserError


def test_no_half_precision_where_a_gpu_would_emulate_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cards such as the GTX 1080 Ti have no bfloat16, but PyTorch says that they support it."""
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation
    )
    assert isinstance(autocast(torch.device("cuda")), nullcontext)


def test_unknown_device_names_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'cuda'"):
        find_device("cud")
