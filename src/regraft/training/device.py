"""Choose the device and the precision of a training."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from regraft.errors import UsageError
from regraft.training.options import Device, Precision


def choose_device(wanted: Device) -> torch.device:
    """The device to train on. Raises `UsageError` if this machine does not have it."""
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if wanted == "auto":
        return torch.device(next(name for name, present in available.items() if present))
    if not available[wanted]:
        names = " and ".join(name for name, present in available.items() if present)
        raise UsageError(f"device = {wanted}, but this machine has {names}. Use auto or cpu.")
    return torch.device(wanted)


def choose_precision(wanted: Precision, device: torch.device) -> torch.dtype:
    """The type of convolutions and matrix products, not of weights and sums; `UsageError` for fp16 on a CPU."""
    if wanted == "off":
        return torch.float32
    if wanted == "bf16":
        return torch.bfloat16
    if wanted == "fp16":
        if device.type == "cpu":
            raise UsageError("precision = fp16 needs a GPU. On a CPU use bf16, auto or off.")
        return torch.float16
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    if device.type == "cpu":
        # A CPU without the instructions emulates bf16, which is slower than float32.
        capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
        fast = capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") or capabilities.get("bf16")
        return torch.bfloat16 if fast else torch.float32
    return torch.float32


def autocast(device: torch.device, precision: torch.dtype) -> AbstractContextManager[object]:
    """A context in which the network runs in `precision`."""
    if precision == torch.float32:
        return nullcontext()
    return torch.autocast(device.type, precision)


def has_room(device: torch.device, size: int) -> bool:
    """Whether `size` bytes fit into half of a GPU's free memory; False on other devices."""
    return device.type == "cuda" and size <= torch.cuda.mem_get_info(device)[0] // 2
