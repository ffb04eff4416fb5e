"""Where to compute: device, half precision where it helps, peak memory."""

import resource
import sys
from contextlib import AbstractContextManager, nullcontext

import torch

from avsm.errors import UserError, choose
from avsm.settings import PRECISIONS


def find_device(name: str = "auto") -> torch.device:
    """Give a device by name: ``auto`` takes CUDA, else MPS, else the processor; or UserError."""
    has_cuda, has_mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if name == "auto":
        return torch.device("cuda" if has_cuda else "mps" if has_mps else "cpu")
    kind = choose("device", name.split(":")[0], ("auto", "cuda", "mps", "cpu"))
    if (kind == "cuda" and not has_cuda) or (kind == "mps" and not has_mps):
        raise UserError(f"device: expected one of this machine, found '{name}'; try 'auto'")
    return torch.device(name)


def autocast(device: torch.device, precision: str = "auto") -> AbstractContextManager[object]:
    """Run networks in bfloat16 where the device computes it fast; geometry stays in float32."""
    half = precision_name(device, precision) == "bfloat16"
    return torch.autocast(device.type, dtype=torch.bfloat16) if half else nullcontext()


def precision_name(device: torch.device, precision: str = "auto") -> str:
    """Give the precision, ``float32`` or ``bfloat16``, that ``autocast`` means on a device."""
    choose("precision", precision, PRECISIONS)
    if precision == "auto":
        return "bfloat16" if _fast_bfloat16(device) else "float32"
    return precision


def _fast_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return False
    # Without such instructions bfloat16 is emulated, which is slower than float32.
    checks = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(getattr(torch.cpu, check, lambda: False)() for check in checks)


def device_name(device: torch.device) -> str:
    """Give an accelerator's name; the processor's is empty."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return "" if device.type == "cpu" else "Apple GPU"


def peak_memory_mb(device: torch.device) -> float:
    """Give the most memory used so far, in MiB: of the GPU, or of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
