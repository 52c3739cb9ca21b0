from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regraft.store import Store, Table, name_of

ROWS = np.random.default_rng(0).integers(0, 2**16, (12, 3, 5), dtype=np.uint16)
NAMES = [name_of(i) for i in range(12)]


def table(folder: Path) -> Table:
    return Table(folder / "t", (3, 5), np.uint16)


def test_rows_come_back_in_another_process_s_eyes(tmp_path: Path) -> None:
    first = table(tmp_path)
    assert first.find(NAMES).tolist() == [-1] * 12
    assert first.append(NAMES[:7], ROWS[:7]).tolist() == list(range(7))
    second = table(tmp_path)
    second.append(NAMES[7:], ROWS[7:])
    for one in (first, second, table(tmp_path)):
        numbers = one.find(NAMES[::-1])
        np.testing.assert_array_equal(one.read(numbers), ROWS[::-1])
    assert first.find([name_of("stranger")]).tolist() == [-1]


def test_a_row_of_another_shape_or_type_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected"):
        table(tmp_path).append(NAMES[:1], ROWS[:1, :2])
    with pytest.raises(ValueError, match="expected"):
        table(tmp_path).append(NAMES[:1], ROWS[:1].astype(np.float32))


@pytest.mark.parametrize("victim", ["rows.bin", "index.bin"])
@pytest.mark.parametrize("position", [0, 77, 119])
def test_a_changed_byte_makes_its_row_missing_and_no_other_wrong(tmp_path: Path, victim: str, position: int) -> None:
    table(tmp_path).append(NAMES, ROWS)
    file = tmp_path / "t" / victim
    data = bytearray(file.read_bytes())
    data[position] ^= 0xFF
    file.write_bytes(bytes(data))
    found = table(tmp_path)
    numbers = found.find(NAMES)
    assert (numbers < 0).sum() == 1
    good = numbers >= 0
    np.testing.assert_array_equal(found.read(numbers[good]), ROWS[good])
    missing = int(np.flatnonzero(~good)[0])
    found.append([NAMES[missing]], ROWS[missing : missing + 1])
    again = table(tmp_path)
    np.testing.assert_array_equal(again.read(again.find(NAMES)), ROWS)


@given(rows=st.integers(0, 360), lines=st.integers(0, 240))
@settings(max_examples=60, deadline=None)
def test_whatever_a_kill_left_of_the_files_only_whole_rows_are_used(
    tmp_path_factory: pytest.TempPathFactory, rows: int, lines: int
) -> None:
    folder = tmp_path_factory.mktemp("cut")
    table(folder).append(NAMES, ROWS)
    os.truncate(folder / "t" / "rows.bin", rows)
    os.truncate(folder / "t" / "index.bin", lines)
    left = table(folder)
    numbers = left.find(NAMES)
    assert (numbers >= 0).sum() == min(rows // 30, lines // 20)
    left.append(NAMES, ROWS)
    for one in (left, table(folder)):
        np.testing.assert_array_equal(one.read(one.find(NAMES)), ROWS)


def test_two_writers_and_a_kill(tmp_path: Path) -> None:
    code = (
        "import sys, numpy as np; from pathlib import Path; from regraft.store import Table, name_of\n"
        "t = Table(Path(sys.argv[1]), (4000,), np.float32)\n"
        "for i in range(100000): t.append([name_of(sys.argv[2], i)], np.full((1, 4000), i, np.float32))"
    )
    folder = tmp_path / "t"
    writers = [subprocess.Popen([sys.executable, "-c", code, str(folder), who]) for who in "ab"]
    reader = Table(folder, (4000,), np.float32)
    deadline = time.monotonic() + 60
    while min(reader.find([name_of(who, 20)]) for who in "ab") < 0 and time.monotonic() < deadline:
        time.sleep(0.05)
    for writer in writers:
        writer.send_signal(signal.SIGKILL)
        writer.wait()
    after = Table(folder, (4000,), np.float32)
    for who in "ab":
        numbers = after.find([name_of(who, i) for i in range(21)])
        assert numbers.min() >= 0
        np.testing.assert_array_equal(after.read(numbers)[:, 0], np.arange(21))
    after.append([name_of("c")], np.zeros((1, 4000), np.float32))
    assert Table(folder, (4000,), np.float32).find([name_of("c")])[0] >= 0


def test_a_table_is_known_by_all_that_its_rows_depend_on(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.table("pixels", {"size": 1}, (3, 5), np.uint16).append(NAMES, ROWS)
    for kind, key, shape, dtype in (
        ("other", {"size": 1}, (3, 5), np.uint16),
        ("pixels", {"size": 2}, (3, 5), np.uint16),
        ("pixels", {"size": 1}, (5, 3), np.uint16),
        ("pixels", {"size": 1}, (3, 5), np.int16),
    ):
        assert store.table(kind, key, shape, dtype).find(NAMES).max() == -1
    assert Store(tmp_path).table("pixels", {"size": 1}, (3, 5), np.uint16).find(NAMES).min() == 0


def test_the_least_recently_used_goes_first_and_what_may_be_in_use_stays(tmp_path: Path) -> None:
    store = Store(tmp_path, limit=5000)
    for hours, kind in ((3, "old"), (2, "middle"), (0, "young")):
        made = store.table(kind, {}, (1000,), np.uint8)
        made.append([name_of(kind)], np.ones((1, 1000), np.uint8))
        os.utime(made.folder / "table.json", (time.time() - 3600 * hours - 10,) * 2)
    size = store.entries()[0].size
    assert size > 1000
    assert store.make_room(5000 - 2 * size - 10)
    assert {entry.kind for entry in store.entries()} == {"middle", "young"}
    assert not store.make_room(5000)
    assert {entry.kind for entry in store.entries()} == {"young"}


def test_prune(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for kind in ("a", "b"):
        store.table(kind, {"why": kind}, (10,), np.uint8).append([name_of(1)], np.ones((1, 10), np.uint8))
    assert [entry.rows for entry in store.entries()] == [1, 1]
    assert store.prune(older_than=3600) == []
    assert len(store.prune()) == 2
    assert store.entries() == []
    assert Store(tmp_path / "nowhere").entries() == []


def test_reading_a_large_table_does_not_keep_it_in_memory(tmp_path: Path) -> None:
    code = (
        "import resource, sys, numpy as np; from pathlib import Path; from regraft.store import Table, name_of\n"
        "t = Table(Path(sys.argv[1]), (2**20,), np.uint8); n = 800\n"
        "for i in range(n): t.append([name_of(i)], np.full((1, 2**20), i % 251, np.uint8))\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "for i in range(0, n, 8): assert (t.read(np.arange(i, i + 8))[:, 5] == np.arange(i, i + 8) % 251).all()\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "t")], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 400


def test_small_values_are_remembered_and_the_first_stays(tmp_path: Path) -> None:
    store = Store(tmp_path / "new")
    assert store.recall("engine", ["a", 1]) is None
    store.remember("engine", ["a", 1], {"torch": 2.0})
    store.remember("engine", ["a", 1], {"torch": 3.0})
    store.remember("engine", ["b"], 4)
    other = Store(tmp_path / "new")
    assert other.recall("engine", ["a", 1]) == {"torch": 2.0}
    assert other.recall("engine", ["b"]) == 4
    assert other.entries() == []
    (tmp_path / "new" / "engine.json").write_text("half a li")
    assert other.recall("engine", ["b"]) is None
    other.remember("engine", ["b"], 5)
    assert other.recall("engine", ["b"]) == 5
