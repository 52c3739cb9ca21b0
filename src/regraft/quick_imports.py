"""Import torchvision and timm without PyTorch's compiler, which alone takes longer to import than both together.

torchvision names the compiler in one function, and timm marks one method as not to be compiled. Both import
`torch._dynamo` for that, and so do PyTorch's optimizers, whose methods are not to be compiled, in every step. timm also
imports W&B wherever it is installed.
"""

from __future__ import annotations

import importlib
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

_COMPILER = "torch._dynamo"
_lock = threading.RLock()


@contextmanager
def quick_imports() -> Iterator[None]:
    """In this block, importing timm or torchvision imports neither the compiler nor W&B; what is loaded already stays.

    What needs the compiler imports it when it is called.
    """
    with without_compiler():
        is_absent = "wandb" not in sys.modules
        if is_absent:
            sys.modules["wandb"] = None  # type: ignore[assignment]  # importing it raises ImportError
        try:
            yield
        finally:
            if is_absent:
                sys.modules.pop("wandb", None)


@contextmanager
def without_compiler() -> Iterator[None]:
    """In this block, an import of PyTorch's compiler gets what marks functions as not to be compiled, and no more."""
    with _lock:
        absent = [] if _COMPILER in sys.modules else [_COMPILER]
        if absent:
            compiler, utilities = ModuleType(_COMPILER), ModuleType(f"{_COMPILER}.utils")
            compiler.__path__ = []
            vars(compiler).update(disable=_disable, graph_break=_graph_break, utils=utilities)
            vars(utilities).update(is_compile_supported=_is_compile_supported)
            sys.modules.update({_COMPILER: compiler, utilities.__name__: utilities})
            absent.append(utilities.__name__)
        try:
            yield
        finally:
            for name in absent:
                sys.modules.pop(name, None)


def _disable(function: Callable[..., Any], *_: Any, **__: Any) -> Callable[..., Any]:
    return function


def _graph_break() -> None:
    """Nothing is compiled, so no graph ends here."""


def _is_compile_supported(*arguments: Any) -> Any:
    return importlib.import_module(f"{_COMPILER}.utils").is_compile_supported(*arguments)
