from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from regraft.data.sources import spool as module
from regraft.data.sources.spool import Spool
from regraft.errors import DataError


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_the_file_lives_as_long_as_something_refers_to_it(place):
    spool = Spool(iter([b"one", b"", b"two"]), "x.tar.gz", "Unpack it.")
    assert spool.path.parent == place
    assert spool.path.read_bytes() == b"onetwo"
    del spool
    assert list(place.iterdir()) == []


def test_a_stream_that_is_too_large_leaves_nothing(place, monkeypatch):
    monkeypatch.setattr(module, "LIMIT", 10**6)
    endless: Iterator[bytes] = iter(lambda: bytes(10**5), b"")
    with pytest.raises(DataError, match=r"x\.tar\.gz unpacks to more than the 0\.001 GB allowed here\. Unpack it\."):
        Spool(endless, "x.tar.gz", "Unpack it.")
    assert list(place.iterdir()) == []


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_a_full_disk_is_named(place, monkeypatch):
    monkeypatch.setattr(tempfile, "mkstemp", lambda **_: (os.open("/dev/full", os.O_WRONLY), str(place / "x")))
    with pytest.raises(DataError, match=r"x\.tar\.gz cannot be unpacked to .*: No space left on device\. Unpack it\."):
        Spool([bytes(10**6)], "x.tar.gz", "Unpack it.")


def test_a_stream_that_breaks_off_leaves_nothing(place):
    def chunks() -> Iterator[bytes]:
        yield b"one"
        raise EOFError

    with pytest.raises(EOFError):
        Spool(chunks(), "x", "Unpack it.")
    assert list(place.iterdir()) == []
