"""Choose the device and the precision of a training."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from regraft.errors import MissingExtraError, UsageError
from regraft.training.options import Device, Precision

#: Names of the instructions in PyTorch.
_INT8_INSTRUCTIONS = ("avx512_vnni", "avx_vnni", "amx_int8")


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
    """The type of convolutions and matrix products, not of weights and sums.

    Of int8 and fastest it is that of all that is not in 8 bits (`int8_prefix`). Raises `UsageError` for fp16 on a CPU
    and int8 on anything else, and `MissingExtraError` for int8 without its packages.
    """
    if wanted == "off":
        return torch.float32
    if wanted == "int8":
        if device.type != "cpu":
            raise UsageError(f"precision = int8 needs a CPU, and the device is {device.type}. Use precision = auto.")
        if not has_int8():
            raise MissingExtraError("training.precision = int8", "int8")
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
        capabilities = _cpu_capabilities()
        fast = capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") or capabilities.get("bf16")
        return torch.bfloat16 if fast else torch.float32
    return torch.float32


def has_int8() -> bool:
    """Whether the packages that quantize frozen layers, the extra int8, are installed."""
    return all(importlib.util.find_spec(package) for package in ("openvino", "nncf"))


def computes_int8(device: torch.device) -> bool:
    """Whether a device has instructions for sums of 8-bit products: a CPU with VNNI or AMX."""
    return device.type == "cpu" and any(_cpu_capabilities().get(name) for name in _INT8_INSTRUCTIONS)


def _cpu_capabilities() -> Mapping[str, Any]:
    return torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}


def autocast(device: torch.device, precision: torch.dtype) -> AbstractContextManager[object]:
    """A context in which the network runs in `precision`."""
    if precision == torch.float32:
        return nullcontext()
    return torch.autocast(device.type, precision)


def has_room(device: torch.device, size: int) -> bool:
    """Whether `size` bytes fit into half of a GPU's free memory; False on other devices."""
    return device.type == "cuda" and size <= torch.cuda.mem_get_info(device)[0] // 2
