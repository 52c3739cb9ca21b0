"""Other processes read files as this process does, and a crash of one costs one file."""

from __future__ import annotations

import io
import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from regraft.cache import Cache, Table
from regraft.data import index_workers
from regraft.data.image_stats import RECORD_DTYPE, STATS_DTYPE
from regraft.data.index_workers import Answer, InProcessWorker, SubprocessWorker


@pytest.fixture
def table(tmp_path: Path) -> Table:
    return Cache(tmp_path / "store").table("facts", {}, (STATS_DTYPE.itemsize,), np.uint8)


@pytest.fixture
def worker(table: Table):
    worker = SubprocessWorker(table, 10_000)
    yield worker
    worker.close()


def files_of(folder: Path) -> list[Path | bytes]:
    """A good file as a path and as bytes, and one file of each kind of fault."""
    Image.new("RGB", (30, 20), "red").save(folder / "good.png")
    Image.new("L", (200, 100)).save(folder / "large.png")
    (folder / "empty.png").touch()
    (folder / "text.png").write_text("none")
    data = (folder / "good.png").read_bytes()
    return [*(folder / name for name in ("good.png", "large.png", "empty.png", "text.png", "gone.png", "nu\0ll")), data]


def test_subprocess_gives_the_same_answers(table, worker, tmp_path):
    files = files_of(tmp_path)
    answers = worker(files)
    assert answers == InProcessWorker(table, 10_000)(files)
    assert worker._process is not None
    assert worker._fallback is None
    (digest, record), *bad, (same, _) = answers
    assert digest == same
    assert np.frombuffer(record, RECORD_DTYPE)["stats"]["width"] == 30
    codes = ["too_large", "empty", "unreadable", "unreadable", "unreadable"]
    assert [answer.code for _, answer in bad] == codes
    assert worker([]) == []
    # A process that was killed is replaced.
    worker._process.kill()
    assert worker(files) == answers
    # What the table has is not examined again.
    values = np.frombuffer(record, RECORD_DTYPE)["stats"].copy().view(np.uint8).reshape(1, -1)
    table.append([index_workers.content_key(digest)], values)
    assert worker.close() == 0
    assert worker(files[:1]) == [(digest, None)]


@pytest.mark.parametrize(("padding", "together"), [(0, 1), (2**15, 4)])
def test_small_files_are_read_by_one_thread_at_a_time(table, tmp_path, monkeypatch, padding, together):
    picture = io.BytesIO()
    Image.new("RGB", (30, 20), "red").save(picture, "JPEG")
    inside: set[int] = set()
    most: list[int] = []

    def slow(data: bytes, max_pixels: int) -> bytes:
        inside.add(threading.get_ident())
        deadline = time.monotonic() + 0.1
        while len(inside) < 4 and time.monotonic() < deadline:
            time.sleep(0.001)
        most.append(len(inside))
        inside.discard(threading.get_ident())
        return b""

    worker = InProcessWorker(table, 10_000)
    files = [[picture.getvalue() + bytes(padding) + bytes([i])] for i in range(9)]
    monkeypatch.setattr(index_workers, "examine", slow)
    worker(files[0])  # measures how large the files are
    most.clear()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(worker, files[1:]))
    assert max(most) == together


CRASHING = """
import os
from regraft.data import index_workers
examine = index_workers.examine_image
index_workers.examine_image = lambda data, **options: os._exit(7) if data == b"crash" else examine(data, **options)
make_handler = index_workers.make_handler
def make(settings): return make_handler(settings)
"""


def test_file_that_crashes_the_process_is_unreadable(worker, tmp_path, monkeypatch):
    (tmp_path / "crashing.py").write_text(CRASHING)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(index_workers, "make_handler", _function("crashing", "make"))
    good = files_of(tmp_path)[0]
    answers: list[Answer] = worker([good, b"crash", good])
    assert answers[0] == answers[2]
    assert isinstance(answers[0][1], bytes)
    assert answers[1] == ("", ("the decoder process exited with code 7", "unreadable"))


def _function(module: str, name: str):
    """A stand-in for a function of a module that only the worker process can import."""

    def function(settings):
        raise NotImplementedError

    function.__module__, function.__qualname__ = module, name
    return function


def test_this_process_reads_if_no_other_can_start(table, worker, tmp_path, monkeypatch):
    monkeypatch.setattr(index_workers, "make_handler", _function("no_such_module", "make"))
    files = files_of(tmp_path)
    assert worker(files) == InProcessWorker(table, 10_000)(files)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "no python"))
    assert SubprocessWorker(table, 10_000)(files) == worker(files)


def test_named_pipe_is_unreadable_without_waiting(table, tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    ((_, (reason, _)),) = InProcessWorker(table, 10_000)([tmp_path / "pipe.png"])
    assert reason == "a pipe or device, not an image file"
