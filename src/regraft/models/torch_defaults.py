"""Run regraft's code under PyTorch's defaults, whatever the caller has set around it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from threading import Lock
from typing import Any

_lock = Lock()
#: Number of calls that need float32 as the default type at present, and the caller's own default type.
_calls = 0
_callers_dtype: Any = None


@contextmanager
def torch_defaults() -> Iterator[None]:
    """Set float32, CPU tensors and gradients as defaults, without autocast and inference mode, within the block.

    A decorator, too; of a generator it would change the caller's settings between two values.
    """
    torch = sys.modules.get("torch")
    if torch is None:  # nobody has set anything
        yield
        return
    with ExitStack() as stack:
        stack.enter_context(_float32())
        for device in ("cpu", "cuda", "mps"):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
        if not torch.is_grad_enabled():
            stack.enter_context(torch.enable_grad())
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        yield


@contextmanager
def _float32() -> Iterator[None]:
    """Make float32 the default type, which all threads share, until the last of them leaves."""
    import torch

    global _calls, _callers_dtype
    with _lock:
        if not _calls:
            _callers_dtype = torch.get_default_dtype()
        if torch.get_default_dtype() != torch.float32:
            torch.set_default_dtype(torch.float32)
        _calls += 1
    try:
        yield
    finally:
        with _lock:
            _calls -= 1
            if not _calls and _callers_dtype != torch.get_default_dtype():
                torch.set_default_dtype(_callers_dtype)
