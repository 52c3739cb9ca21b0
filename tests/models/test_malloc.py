from __future__ import annotations

import platform
import sys

import numpy as np
import psutil
import pytest

from regraft.models import malloc


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc returns freed memory at once")
def test_glibc_keeps_freed_memory() -> None:
    assert malloc.keep_freed_memory()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc keeps freed memory")
def test_freed_memory_returns_to_the_system() -> None:
    malloc.keep_freed_memory()
    process = psutil.Process()
    blocks = [np.ones(2**20) for _ in range(16)]  # 8 MB each
    last = np.ones(1000)
    before = process.memory_info().rss
    del blocks
    malloc.return_freed_memory()
    assert process.memory_info().rss < before - 100e6
    assert last.all()


def test_other_systems_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not malloc.keep_freed_memory.__wrapped__()
    malloc.return_freed_memory()
