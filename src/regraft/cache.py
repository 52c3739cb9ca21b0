"""Cache arrays on disk, so that no run on this machine computes them twice.

A table stores rows of one shape and dtype. Each row has a cache key, which is a hash of everything the row depends on.

A table is a folder with `table.json` (what the rows are), `rows.bin` (the rows, one after the other) and `index.bin`
(key and checksum of each row). Rows are only appended: first the row, then its line in the index. So a process that is
killed leaves complete rows only. A row whose checksum is wrong counts as missing.
"""

from __future__ import annotations

import atexit
import functools
import hashlib
import json
import logging
import os
import shutil
import tempfile
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
from filelock import FileLock
from platformdirs import user_cache_path

from regraft.atomic_io import write_json
from regraft.errors import UsageError, cause_of
from regraft.key_index import KEY_BYTES, KeyIndex, Keys, keys_array
from regraft.resources import usable_cpus

#: Size limit of all tables together, in bytes.
DEFAULT_LIMIT = 10 * 10**9
_DESCRIPTION, _ROWS, _INDEX, _LOCK = "table.json", "rows.bin", "index.bin", ".lock"
#: Seconds after its last use in which a table counts as in use.
_IN_USE = 3600.0
_LINE = np.dtype([("key", "u1", (KEY_BYTES,)), ("checksum", "<u4")])
#: Bytes of rows, or number of rows where they are small, that are read at once.
_READ = 2**20

_Value = TypeVar("_Value")


def cache_key(*parts: object) -> bytes:
    """A 16-byte hash that differs whenever the parts differ."""
    return cache_key_of(parts)


def cache_key_of(parts: Iterable[object]) -> bytes:
    """As `cache_key`, of many parts, which need not be in memory together."""
    digest, separator = hashlib.blake2b(digest_size=KEY_BYTES), ""
    for part in map(str, parts):
        # lengths: ("ab", "c") is not ("a", "bc")
        digest.update(f"{separator}{len(part)}:{part}".encode(errors="surrogatepass"))
        separator = "\0"
    return digest.digest()


class Table:
    """Rows of one shape and dtype in a folder, found by cache key."""

    def __init__(self, folder: Path, shape: Sequence[int], dtype: np.dtype[Any] | type) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.shape, self.dtype = folder, tuple(shape), np.dtype(dtype)
        self.row_bytes = int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize
        for file in (_ROWS, _INDEX):
            (folder / file).touch()
        self._lock = FileLock(folder / _LOCK)
        self._rows = KeyIndex()
        self._count = 0
        self._checksums, self._verified = np.empty(0, np.uint32), np.empty(0, bool)  # with space for more rows
        self.refresh()

    def __contains__(self, key: bytes) -> bool:
        """Whether the index, as last read, has this key; only `find` verifies the row itself."""
        return key in self._rows

    def find(self, keys: Keys) -> np.ndarray:
        """Row numbers of these keys, each 16 bytes or together uint8 (N, 16): int64 (N,); -1: missing or damaged."""
        self.refresh()
        keys = keys_array(keys)
        numbers = self._rows.find(keys)
        unverified = np.unique(numbers[numbers >= 0])
        unverified = unverified[~self._verified[unverified]]
        damaged = self._damaged(unverified)
        self._verified[unverified] = True
        self._verified[damaged] = False
        if len(damaged):
            is_damaged = np.isin(numbers, damaged)
            self._rows.remove(keys[is_damaged])
            numbers[is_damaged] = -1
        return numbers

    def append(self, keys: Keys, rows: np.ndarray) -> np.ndarray:
        """Add rows (n, *shape) under their keys; returns their row numbers, int64 (n,)."""
        if rows.shape != (len(keys), *self.shape) or rows.dtype != self.dtype:
            raise ValueError(f"rows {rows.shape} {rows.dtype}; expected {(len(keys), *self.shape)} {self.dtype}")
        rows = np.ascontiguousarray(rows)
        lines = np.empty(len(keys), _LINE)
        lines["key"] = keys_array(keys)
        lines["checksum"] = [zlib.crc32(row.data) for row in rows.view(np.uint8).reshape(len(rows), self.row_bytes)]
        with self._lock:
            self.refresh()
            first = self._count
            # Truncation removes what a killed writer left behind the last complete row.
            for file, size, data in (
                (_ROWS, first * self.row_bytes, rows.view(np.uint8).data),
                (_INDEX, first * _LINE.itemsize, lines.tobytes()),
            ):
                try:
                    with (self.folder / file).open("r+b") as handle:
                        handle.truncate(size)
                        handle.seek(size)
                        handle.write(data)
                except OSError as error:  # a full disk: what was written of it would stay
                    os.truncate(self.folder / file, size)
                    raise OSError(error.errno, error.strerror, str(self.folder / file)) from error
        self.refresh()
        numbers = np.arange(first, first + len(keys))
        self._verified[numbers] = True
        return numbers

    def read(self, numbers: np.ndarray) -> np.ndarray:
        """A copy of the rows with these numbers, (n, *shape)."""
        # Not a memory map: around each scattered row the system maps so much that it counts as memory in use.
        rows = np.empty((len(numbers), *self.shape), self.dtype)
        flat = rows.reshape(-1).view(np.uint8)
        with (self.folder / _ROWS).open("rb") as file:
            # Consecutive rows are read at once. Without rows there is one bound and nothing to read.
            for start, end in _consecutive(numbers, len(numbers)):
                file.seek(int(numbers[start]) * self.row_bytes)
                data = flat[start * self.row_bytes : end * self.row_bytes]
                if file.readinto(data.data) < len(data):
                    raise OSError(f"{file.name} ends too early")
        return rows

    def read_list(self) -> np.ndarray | None:
        """All rows of a table that `write_list` wrote, (n, *shape); None if a row is missing or damaged."""
        head = self.find([cache_key("count")])
        if head[0] < 0:
            return None
        count = int(self.read(head).flat[0])
        numbers = self.find([cache_key(i) for i in range(count)])
        return None if (numbers < 0).any() else self.read(numbers)

    def write_list(self, rows: np.ndarray) -> np.ndarray:
        """Write rows (n, *shape) that are read together, with their count; returns the rows."""
        head = np.zeros((1, *self.shape), self.dtype)
        head.flat[0] = len(rows)
        # One call, so that the count is never stored without its rows.
        self.append([cache_key("count"), *(cache_key(i) for i in range(len(rows)))], np.concatenate([head, rows]))
        return rows

    def refresh(self) -> None:
        """Read the index lines that this or another process has added."""
        with (self.folder / _INDEX).open("rb") as file:
            file.seek(self._count * _LINE.itemsize)
            data = file.read()
        complete = (self.folder / _ROWS).stat().st_size // self.row_bytes
        count = min(len(data) // _LINE.itemsize, max(0, complete - self._count))
        if count:
            new, start = np.frombuffer(data, _LINE, count), self._count
            self._checksums, self._verified = (
                _with_space(array, start + count) for array in (self._checksums, self._verified)
            )
            self._checksums[start : start + count] = new["checksum"]
            self._count += count
            self._rows.add(np.ascontiguousarray(new["key"]), start)

    def _damaged(self, numbers: np.ndarray) -> np.ndarray:
        """Those of these rows, sorted int64 (n,), whose checksum is wrong."""
        if not len(numbers):
            return numbers
        at_once = max(1, _READ // self.row_bytes)

        def check(part: np.ndarray) -> list[int]:
            damaged, checksums = [], self._checksums[part].tolist()
            with (self.folder / _ROWS).open("rb") as file:
                for start, end in _consecutive(part, at_once):
                    first = int(part[start])
                    file.seek(first * self.row_bytes)
                    data = memoryview(file.read((end - start) * self.row_bytes))
                    for i in range(end - start):
                        row = data[i * self.row_bytes : (i + 1) * self.row_bytes]
                        if zlib.crc32(row) != checksums[start + i]:
                            damaged.append(first + i)
            return damaged

        threads = min(len(numbers), usable_cpus())
        with ThreadPoolExecutor(threads) as pool:
            found = pool.map(check, np.array_split(numbers, threads))
            return np.array([number for part in found for number in part], np.int64)


def _consecutive(numbers: np.ndarray, at_once: int) -> Iterator[tuple[int, int]]:
    """Start and end of each run of consecutive numbers, at most `at_once` of them."""
    for block in range(0, len(numbers), _READ):  # a list of all ends would take more memory than the numbers
        part = numbers[block : block + _READ]
        ends = (np.flatnonzero(np.diff(part) != 1) + 1).tolist()
        for start, end in pairwise([0, *ends, len(part)]):
            for first in range(start, end, at_once):
                yield block + first, block + min(first + at_once, end)


def _with_space(array: np.ndarray, length: int) -> np.ndarray:
    """The array, or a copy of at least this length that is twice as long, filled with zeros."""
    if len(array) >= length:
        return array
    longer = np.zeros(max(length, 2 * len(array)), array.dtype)
    longer[: len(array)] = array
    return longer


@dataclass(frozen=True)
class Entry:
    """A table as `regraft cache` lists it.

    `key` is what the rows depend on besides the image, `size` is in bytes, `used` is the time of the last use in
    seconds since 1970.
    """

    folder: Path
    kind: str
    key: Mapping[str, Any]
    rows: int
    size: int
    used: float


class Cache:
    """All tables of this user on this machine, `limit` bytes together.

    The default root is that of `default_root`.
    """

    def __init__(self, root: Path | None = None, *, limit: int = DEFAULT_LIMIT) -> None:
        self.root = root or default_root()
        self.limit = limit
        self._given_root = root
        self._open: dict[Path, Table] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        """On another machine a cache without a root of its own is the one of that machine."""
        return functools.partial(Cache, self._given_root, limit=self.limit), ()

    def table(self, kind: str, key: Mapping[str, Any], shape: Sequence[int], dtype: Any) -> Table:
        """Open or create the table for a kind of row, such as `pixels`.

        `key` has everything that the rows depend on besides the image, as JSON values.
        """
        folder, description = self._place(kind, key, shape, dtype)
        if folder not in self._open:
            self._open[folder] = Table(folder, shape, dtype)
            if not (folder / _DESCRIPTION).exists():
                write_json(folder / _DESCRIPTION, description)
        os.utime(folder / _DESCRIPTION)
        return self._open[folder]

    def existing_table(self, kind: str, key: Mapping[str, Any], shape: Sequence[int], dtype: Any) -> Table | None:
        """The table that `table` would open, or None if there is none yet."""
        folder, _ = self._place(kind, key, shape, dtype)
        return self.table(kind, key, shape, dtype) if (folder / _DESCRIPTION).is_file() else None

    def _place(
        self, kind: str, key: Mapping[str, Any], shape: Sequence[int], dtype: Any
    ) -> tuple[Path, dict[str, Any]]:
        """Folder and description of a table."""
        description = {"kind": kind, "key": dict(key), "shape": list(shape), "dtype": np.dtype(dtype).str}
        text = json.dumps(description, sort_keys=True)
        return self.root / f"{kind}-{hashlib.blake2b(text.encode(), digest_size=12).hexdigest()}", description

    def get_or_measure(self, kind: str, key: object, measure: Callable[[], _Value]) -> _Value:
        """The small JSON value, such as a measurement, under a key; where there is none, what `measure` returns.

        Of several processes that measure at once, all get the value that was stored first.
        """
        file, name = self.root / f"{kind}.json", json.dumps(key)
        if (stored := _read_json(file).get(name)) is not None:
            return cast(_Value, stored)
        measured = measure()
        self.root.mkdir(parents=True, exist_ok=True)
        with FileLock(self.root / f".{kind}.lock"):
            values: dict[str, _Value] = {name: measured, **_read_json(file)}
            write_json(file, values)
        return values[name]

    def make_room(self, size: int) -> bool:
        """Remove the least recently used tables until `size` more bytes fit within the limit; returns whether they fit.

        Tables used within the last hour stay, because another process may be working with them.
        """
        self.prune(to=self.limit - size, older_than=_IN_USE)
        return sum(entry.size for entry in self.entries()) + size <= self.limit

    def entries(self) -> list[Entry]:
        """Every table, the largest first."""
        return sorted(self._entries(), key=lambda entry: -entry.size)

    def remove(self, entry: Entry) -> None:
        """Delete a table."""
        shutil.rmtree(entry.folder, ignore_errors=True)

    def discard(self, table: Table) -> None:
        """Delete a table that this cache has opened and that nobody else knows."""
        self._open.pop(table.folder, None)
        shutil.rmtree(table.folder, ignore_errors=True)

    def prune(self, *, to: int = 0, older_than: float = 0.0) -> list[Entry]:
        """Remove the least recently used tables until at most `to` bytes remain; returns the removed ones.

        Only tables that were not used for `older_than` seconds are removed. A table whose last use is still to come,
        because the clock was set back, counts as if it had been as long ago.
        """
        entries = sorted(self._entries(), key=lambda entry: entry.used)
        total = sum(entry.size for entry in entries)
        removed = []
        for entry in entries:
            if total <= to:
                break
            if abs(time.time() - entry.used) < older_than:
                continue
            self.remove(entry)
            total -= entry.size
            removed.append(entry)
        return removed

    def _entries(self) -> Iterator[Entry]:
        if not self.root.is_dir():
            return
        for folder in self.root.iterdir():
            with suppress(OSError, ValueError, KeyError):  # another process is creating or removing it
                description = json.loads((folder / _DESCRIPTION).read_text(encoding="utf-8"))
                files = {file.name: file.stat() for file in folder.iterdir()}
                rows, size = files[_INDEX].st_size // _LINE.itemsize, sum(stat.st_size for stat in files.values())
                yield Entry(folder, description["kind"], description["key"], rows, size, files[_DESCRIPTION].st_mtime)


def default_root() -> Path:
    """`$REGRAFT_CACHE`, or else the user's cache folder, or a temporary folder if that cannot be written.

    Raises `UsageError` if `$REGRAFT_CACHE` cannot be a folder.
    """
    if configured := os.environ.get("REGRAFT_CACHE", "").strip():
        try:
            root = Path(configured).expanduser().absolute()
            root.mkdir(parents=True, exist_ok=True)
        except (OSError, RuntimeError) as error:
            reason = cause_of(error)
            raise UsageError(f"REGRAFT_CACHE={configured}: {reason}. Expected a folder that can be written.") from error
        return root
    try:
        root = user_cache_path("regraft")
        root.mkdir(parents=True, exist_ok=True)
        if os.access(root, os.W_OK | os.X_OK):
            return root
        reason = f"The cache folder {root} cannot be written"
    except (OSError, RuntimeError) as error:
        reason = f"The cache folder cannot be created ({cause_of(error)})"
    return _temporary_root(reason)


@functools.cache
def _temporary_root(reason: str) -> Path:
    root = Path(tempfile.mkdtemp(prefix="regraft-cache-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    logging.getLogger(__name__).warning(
        "%s, so this process uses a temporary one. Set REGRAFT_CACHE to a folder that can be written.", reason,
    )  # fmt: skip
    return root


def _read_json(file: Path) -> dict[str, Any]:
    values: dict[str, Any] = {}
    with suppress(OSError, ValueError):
        values = json.loads(file.read_text(encoding="utf-8"))
    return values
