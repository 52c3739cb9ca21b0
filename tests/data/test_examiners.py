"""Files are read in other processes as they are in this one, and a process that ends takes nothing with it."""

from __future__ import annotations

import io
import os
import sys
import threading
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from regraft.data import examiners, reading
from regraft.data.examiners import Answer, Apart, Here
from regraft.data.facts import FACTS, RECORD
from regraft.data.scan import scan
from regraft.store import Store, Table


@pytest.fixture
def table(tmp_path: Path) -> Table:
    return Store(tmp_path / "store").table("facts", {}, (FACTS.itemsize,), np.uint8)


@pytest.fixture
def apart(table: Table):
    examiner = Apart(table.folder, 10_000)
    yield examiner
    examiner.end()


def files_of(folder: Path) -> list[Path | bytes]:
    """Good ones, and every sort of bad one: as paths, and as bytes."""
    Image.new("RGB", (30, 20), "red").save(folder / "good.png")
    Image.new("L", (200, 100)).save(folder / "large.png")
    (folder / "empty.png").touch()
    (folder / "text.png").write_text("none")
    data = (folder / "good.png").read_bytes()
    return [*(folder / name for name in ("good.png", "large.png", "empty.png", "text.png", "gone.png", "nu\0ll")), data]


def test_a_process_gives_the_same_answers(table, apart, tmp_path):
    files = files_of(tmp_path)
    answers = apart(files)
    assert answers == Here(table, 10_000)(files)
    assert apart._process is not None
    assert apart._instead is None
    (digest, record), *bad, (same, _) = answers
    assert digest == same
    assert np.frombuffer(record, RECORD)["facts"]["width"] == 30
    assert [type(reason) for _, reason in bad] == [str] * 5
    assert apart([]) == []


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

    here = Here(table, 10_000)
    files = [[picture.getvalue() + bytes(padding) + bytes([i])] for i in range(9)]
    monkeypatch.setattr(examiners, "examine", slow)
    here(files[0])  # which tells how large they are
    most.clear()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(here, files[1:]))
    assert max(most) == together


def test_what_the_table_has_is_not_examined_again(table, tmp_path):
    files = files_of(tmp_path)[:1]
    ((digest, record),) = Here(table, 10_000)(files)
    assert isinstance(record, bytes)
    facts = np.frombuffer(record, RECORD)["facts"].copy().view(np.uint8).reshape(1, -1)
    table.append([examiners.name_of_content(digest)], facts)
    examiner = Apart(table.folder, 10_000)
    assert examiner(files) == [(digest, None)]
    assert examiner.end() == 0


def test_a_process_that_was_killed_is_begun_again(apart, tmp_path):
    files = files_of(tmp_path)
    answers = apart(files)
    apart._process.kill()
    apart._process.wait()
    assert apart(files) == answers


def test_a_file_that_ends_the_process_is_one_that_cannot_be_read(apart, tmp_path, monkeypatch):
    deadly = """
import json, os, sys; sys.path[:] = json.loads(sys.argv[1])
from regraft.data import examiners
examine = examiners.examine_image
examiners.examine_image = lambda data, **options: os._exit(7) if data == b"deadly" else examine(data, **options)
examiners.serve()
"""
    monkeypatch.setattr(examiners, "_PROGRAM", deadly)
    good = files_of(tmp_path)[0]
    answers: list[Answer] = apart([good, b"deadly", good])
    assert answers[0] == answers[2]
    assert isinstance(answers[0][1], bytes)
    assert answers[1] == ("", "reading it ended the process that did (exit code 7)")


@pytest.mark.parametrize("program", ["raise SystemExit('no')", "print('hello')"])
def test_where_no_process_can_be_begun_this_one_reads(table, apart, tmp_path, monkeypatch, program, capfd):
    monkeypatch.setattr(examiners, "_PROGRAM", program)
    files = files_of(tmp_path)
    assert apart(files) == Here(table, 10_000)(files)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "no python"))
    assert Apart(table.folder, 10_000)(files) == apart(files)


def test_a_pipe_is_not_waited_for(table, tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    ((_, reason),) = Here(table, 10_000)([tmp_path / "pipe.png"])
    assert reason == "a pipe or device, which holds no image"


def test_large_files_out_of_an_archive_are_not_held_together(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
        for number in range(256):
            data = io.BytesIO()
            Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(data, "PNG")
            archive.writestr(f"class{number % 2}/{number}.png", data.getvalue())
    held: list[int] = []

    class Counted(Here):
        def __call__(self, files):
            held.append(sum(map(len, files)))
            return super().__call__(files)

    monkeypatch.setattr(reading, "Here", Counted)
    monkeypatch.setattr(reading, "_HELD", 1500)  # two of them
    assert len(scan(tmp_path / "data.zip", store=Store(tmp_path / "store"), workers=1)) == 256
    assert max(held) < 3000  # of the four of a task
    assert sum(size > 1500 for size in held) > 100


def test_a_scan_by_processes_is_a_scan(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    for number in range(40):
        file = tmp_path / "data" / f"class{number % 2}" / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(file)
    (tmp_path / "data/class0/broken.png").write_bytes(b"none")
    expected = scan(tmp_path / "data", store=Store(tmp_path / "one"))
    asked: list[int] = []

    class Counted(Apart):
        def __call__(self, files):
            asked.append(len(files))
            return super().__call__(files)

    monkeypatch.setattr(reading, "_WORTH", 10)
    monkeypatch.setattr(reading, "Apart", Counted)
    store = Store(tmp_path / "two")
    assert scan(tmp_path / "data", store=store, workers=2) == expected
    assert sum(asked) == 41
    (broken,) = expected.bad
    assert broken.path == "class0/broken.png"
