from __future__ import annotations

import platform
import sys

import pytest

from regraft.models import malloc


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc returns freed memory at once")
def test_glibc_keeps_freed_memory() -> None:
    assert malloc.keep_freed_memory()


def test_other_systems_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not malloc.keep_freed_memory.__wrapped__()
