import errno
import hashlib
import json
import math
import os
import re
import stat
import threading
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from regraft.atomic_io import atomic_write, sha256_of, write_csv, write_json, write_text
from regraft.spreadsheets import read_rows

TEXT = st.text(st.characters(codec="utf-8"))


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_new_file_takes_the_place_of_the_old_one(tmp_path):
    file = tmp_path / "state"
    file.write_text("old")
    with atomic_write(file) as temporary:
        assert temporary.parent == tmp_path
        assert temporary.suffix == ".partial"
        temporary.write_text("new")
        assert file.read_text() == "old"
    assert file.read_text() == "new"
    assert names_in(tmp_path) == ["state"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("existed", [True, False])
def test_an_exception_keeps_the_old_file_and_leaves_nothing_behind(tmp_path, error, existed):
    file = tmp_path / "state"
    if existed:
        file.write_text("old")

    def fail() -> None:
        with atomic_write(file) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(error):
        fail()
    assert names_in(tmp_path) == (["state"] if existed else [])
    assert not existed or file.read_text() == "old"


def test_a_failing_replacement_leaves_nothing_behind(tmp_path):
    folder = tmp_path / "state"
    folder.mkdir()
    with pytest.raises(OSError, match="state"):
        write_text(folder, "text")
    assert names_in(tmp_path) == ["state"]
    assert names_in(folder) == []


@pytest.mark.parametrize("letter", ["x", "\u65e5", "\udcff"])
def test_a_name_of_any_length_that_is_allowed_is_written(tmp_path, letter):
    name = letter * (250 // len(os.fsencode(letter))) + ".json"
    write_json(tmp_path / name, [1])
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert json.loads((tmp_path / name).read_text()) == [1]


def test_missing_folders_are_made(tmp_path):
    write_text(tmp_path / "a/b/c.txt", "text")
    assert (tmp_path / "a/b/c.txt").read_text() == "text"


@pytest.mark.skipif(os.name == "nt", reason="Windows has no mode bits")
@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002, 0o027])
def test_mode_bits_follow_the_umask(tmp_path, mask):
    before = os.umask(mask)
    try:
        write_text(tmp_path / "file", "text")
        after = os.umask(mask)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o666 & ~mask
    assert after == mask


def test_the_umask_is_never_lifted(tmp_path, monkeypatch):
    def refuse(mask: int) -> int:
        raise AssertionError("the umask belongs to the whole process: another thread may be making a file")

    monkeypatch.setattr(os, "umask", refuse)
    write_text(tmp_path / "file", "text")


def test_writers_at_once_leave_one_whole_file(tmp_path):
    file = tmp_path / "state"
    texts = [str(i) * 20_000 for i in range(8)]
    threads = [threading.Thread(target=write_text, args=(file, text)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert file.read_text() in texts
    assert names_in(tmp_path) == ["state"]


@given(TEXT)
@settings(max_examples=40, deadline=None)
def test_text_is_written_as_it_is_in_utf_8(tmp_path_factory, text):
    file = tmp_path_factory.mktemp("text") / "file.txt"
    write_text(file, text)
    assert file.read_bytes() == text.encode()


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
        max_leaves=12,
    )
)
@settings(max_examples=50, deadline=None)
def test_json_and_back_is_the_identity(tmp_path_factory, value):
    file = tmp_path_factory.mktemp("json") / "file.json"
    write_json(file, value)
    assert json.loads(file.read_text(encoding="utf-8")) == value
    assert file.read_bytes().endswith(b"\n")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, {"deep": [1, {"er": math.nan}]}, {1, 2}, b"bytes"])
def test_what_is_not_json_is_refused_and_the_old_file_stays(tmp_path, value):
    file = tmp_path / "metrics.json"
    write_json(file, {"accuracy": 0.5})
    with pytest.raises((ValueError, TypeError)):
        write_json(file, value)
    assert json.loads(file.read_text()) == {"accuracy": 0.5}
    assert names_in(tmp_path) == ["metrics.json"]


@given(st.lists(st.tuples(TEXT, TEXT), max_size=6))
@example([("carriage\rreturn", "new\nline"), ('"', ",")])
@settings(max_examples=50, deadline=None)
def test_csv_and_back_is_the_identity(tmp_path_factory, rows):
    file = tmp_path_factory.mktemp("csv") / "file.csv"
    write_csv(file, ["path", "label"], rows)
    with file.open(newline="", encoding="utf-8") as text:
        header, *read = read_rows(text)
    assert header == ["path", "label"]
    assert [tuple(row) for row in read] == rows


def test_rows_are_taken_from_an_iterator_and_none_is_empty(tmp_path):
    write_csv(tmp_path / "file.csv", ("a", "b"), ((i, None) for i in range(2)))
    assert (tmp_path / "file.csv").read_bytes() == b"a,b\n0,\n1,\n"


def test_a_failing_iterator_keeps_the_old_file(tmp_path):
    file = tmp_path / "file.csv"
    write_csv(file, ("a",), [(1,)])
    with pytest.raises(ZeroDivisionError):
        write_csv(file, ("a",), ((1 // i,) for i in (1, 0)))
    assert file.read_bytes() == b"a\n1\n"
    assert names_in(tmp_path) == ["file.csv"]


@pytest.mark.parametrize("size", [0, 1, 3_000_000])
def test_the_hash_of_a_file(tmp_path, size):
    content = bytes(i % 251 for i in range(1000)) * (size // 1000) + b"x" * (size % 1000)
    (tmp_path / "file").write_bytes(content)
    assert sha256_of(tmp_path / "file") == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
    ids=str,
)
def test_a_full_disk_is_an_os_error_with_the_file_s_name(tmp_path, error):
    file = tmp_path / "state"
    file.write_text("old")
    with pytest.raises(OSError, match=re.escape(str(file))) as caught, atomic_write(file):
        raise error
    assert caught.value.errno in (errno.ENOSPC, errno.EDQUOT)
    assert (names_in(tmp_path), file.read_text()) == (["state"], "old")
