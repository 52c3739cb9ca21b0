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

from regraft import cache
from regraft.cache import Cache, Table, cache_key, default_root
from regraft.errors import UsageError

ROWS = np.random.default_rng(0).integers(0, 2**16, (12, 3, 5), dtype=np.uint16)
NAMES = [cache_key(i) for i in range(12)]


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
    assert first.find([cache_key("stranger")]).tolist() == [-1]


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
        "import sys, numpy as np; from pathlib import Path; from regraft.cache import Table, cache_key\n"
        "t = Table(Path(sys.argv[1]), (4000,), np.float32)\n"
        "for i in range(100000): t.append([cache_key(sys.argv[2], i)], np.full((1, 4000), i, np.float32))"
    )
    folder = tmp_path / "t"
    writers = [subprocess.Popen([sys.executable, "-c", code, str(folder), who]) for who in "ab"]
    reader = Table(folder, (4000,), np.float32)
    deadline = time.monotonic() + 60
    while min(reader.find([cache_key(who, 20)]) for who in "ab") < 0 and time.monotonic() < deadline:
        time.sleep(0.05)
    for writer in writers:
        writer.send_signal(signal.SIGKILL)
        writer.wait()
    after = Table(folder, (4000,), np.float32)
    for who in "ab":
        numbers = after.find([cache_key(who, i) for i in range(21)])
        assert numbers.min() >= 0
        np.testing.assert_array_equal(after.read(numbers)[:, 0], np.arange(21))
    after.append([cache_key("c")], np.zeros((1, 4000), np.float32))
    assert Table(folder, (4000,), np.float32).find([cache_key("c")])[0] >= 0


def test_a_table_is_known_by_all_that_its_rows_depend_on(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    cache.table("pixels", {"size": 1}, (3, 5), np.uint16).append(NAMES, ROWS)
    for kind, key, shape, dtype in (
        ("other", {"size": 1}, (3, 5), np.uint16),
        ("pixels", {"size": 2}, (3, 5), np.uint16),
        ("pixels", {"size": 1}, (5, 3), np.uint16),
        ("pixels", {"size": 1}, (3, 5), np.int16),
    ):
        assert cache.table(kind, key, shape, dtype).find(NAMES).max() == -1
    assert Cache(tmp_path).table("pixels", {"size": 1}, (3, 5), np.uint16).find(NAMES).min() == 0


def test_the_least_recently_used_goes_first_and_what_may_be_in_use_stays(tmp_path: Path) -> None:
    cache = Cache(tmp_path, limit=5000)
    for hours, kind in ((3, "old"), (2, "middle"), (0, "young")):
        made = cache.table(kind, {}, (1000,), np.uint8)
        made.append([cache_key(kind)], np.ones((1, 1000), np.uint8))
        os.utime(made.folder / "table.json", (time.time() - 3600 * hours - 10,) * 2)
    size = cache.entries()[0].size
    assert size > 1000
    assert cache.make_room(5000 - 2 * size - 10)
    assert {entry.kind for entry in cache.entries()} == {"middle", "young"}
    assert not cache.make_room(5000)
    assert {entry.kind for entry in cache.entries()} == {"young"}


def test_prune(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    for kind in ("a", "b"):
        cache.table(kind, {"why": kind}, (10,), np.uint8).append([cache_key(1)], np.ones((1, 10), np.uint8))
    assert [entry.rows for entry in cache.entries()] == [1, 1]
    assert cache.prune(older_than=3600) == []
    places = {entry.kind: entry.folder / "table.json" for entry in cache.entries()}
    os.utime(places["a"], (time.time() + 7200,) * 2)  # the clock was set back since
    os.utime(places["b"], (time.time() + 60,) * 2)
    assert [entry.kind for entry in cache.prune(older_than=3600)] == ["a"]
    assert len(cache.prune()) == 1
    assert cache.entries() == []
    assert Cache(tmp_path / "nowhere").entries() == []


def test_reading_a_large_table_does_not_keep_it_in_memory(tmp_path: Path) -> None:
    code = (
        "import resource, sys, numpy as np; from pathlib import Path; from regraft.cache import Table, cache_key\n"
        "t = Table(Path(sys.argv[1]), (2**20,), np.uint8); n = 240\n"
        "for i in range(n): t.append([cache_key(i)], np.full((1, 2**20), i % 251, np.uint8))\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "for i in range(0, n, 8): assert (t.read(np.arange(i, i + 8))[:, 5] == np.arange(i, i + 8) % 251).all()\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "t")], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 120


def test_small_values_are_remembered_and_the_first_stays(tmp_path: Path) -> None:
    cache, other = Cache(tmp_path / "new"), Cache(tmp_path / "new")

    def measured_by_both() -> dict[str, float]:
        assert other.get_or_measure("backends", ["a", 1], lambda: {"torch": 2.0}) == {"torch": 2.0}
        return {"torch": 3.0}

    assert cache.get_or_measure("backends", ["a", 1], measured_by_both) == {"torch": 2.0}
    assert cache.get_or_measure("backends", ["b"], lambda: 4) == 4
    assert other.get_or_measure("backends", ["b"], lambda: pytest.fail("it is known")) == 4
    assert other.entries() == []
    (tmp_path / "new" / "backends.json").write_text("half a li")
    assert other.get_or_measure("backends", ["b"], lambda: 5) == 5
    assert cache.get_or_measure("backends", ["b"], lambda: 6) == 5


def test_the_root_is_absolute_and_home_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    roots = {}
    for value in ("~/a", "b", f"{tmp_path}/c", "", "  "):
        monkeypatch.setenv("REGRAFT_CACHE", value)
        roots[value] = default_root()
        assert roots[value].is_dir()
    assert list(roots.values())[:3] == [tmp_path / "home" / "a", tmp_path / "b", tmp_path / "c"]
    assert roots[""] == roots["  "] != tmp_path
    assert not (tmp_path / "~").exists()
    (tmp_path / "file").touch()
    for wrong in (str(tmp_path / "file"), "~nobody-has-this-name/x"):
        monkeypatch.setenv("REGRAFT_CACHE", wrong)
        with pytest.raises(UsageError, match=r"REGRAFT_CACHE=.*Expected a folder that can be written"):
            default_root()


@pytest.mark.skipif(os.name != "posix", reason="the user's name comes from the environment there")
@pytest.mark.parametrize("home", [None, "/proc/nohome"])
def test_without_a_home_the_cache_is_temporary_and_says_so(
    home: str | None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import pwd

    for name in ("REGRAFT_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", {}.__getitem__)
    if home:
        monkeypatch.setenv("HOME", home)
    cache._temporary_root.cache_clear()
    assert default_root() == default_root()
    assert os.access(default_root(), os.W_OK)
    (record,) = caplog.records
    assert "Set REGRAFT_CACHE to a folder that can be written." in record.getMessage()


@pytest.mark.skipif(os.name != "posix", reason="no limits of file sizes")
def test_a_row_that_the_disk_has_no_room_for_leaves_the_others(tmp_path: Path) -> None:
    import resource

    whole = Table(tmp_path / "t", (1_000_000,), np.uint8)
    rows = np.arange(3, dtype=np.uint8).repeat(1_000_000).reshape(3, -1)
    whole.append(NAMES[:1], rows[:1])
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_500_000, limits[1]))
    try:
        with pytest.raises(OSError, match=r"rows\.bin"):
            whole.append(NAMES[1:3], rows[1:])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (tmp_path / "t" / "rows.bin").stat().st_size == 1_000_000
    assert whole.find(NAMES[:3]).tolist() == [0, -1, -1]
    assert whole.append(NAMES[1:3], rows[1:]).tolist() == [1, 2]
