"""What is computed once: rows of numbers on disk, found by name, for all runs on this machine.

Enters: rows of one shape and type, each under a name that stands for all that it depends on. Leaves: the same rows in
a later process. A table is a folder with `table.json` (what the rows are), `rows.bin` (the rows, one after the other)
and `index.bin` (name and checksum of each row). Rows are only ever appended, first the row and then its line in the
index, so that a kill leaves a row whole or unknown; a row whose checksum is wrong counts as missing.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from io import FileIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from platformdirs import user_cache_path

from regraft.files import write_json

#: Of all tables together, in bytes.
DEFAULT_LIMIT = 10 * 10**9
_DESCRIPTION, _ROWS, _INDEX, _LOCK = "table.json", "rows.bin", "index.bin", ".lock"
#: Seconds for which a table counts as in use.
_IN_USE = 3600.0
_LINE = np.dtype([("name", "V16"), ("checksum", "<u4")])


def name_of(*parts: object) -> bytes:
    """A row's name: 16 bytes that differ wherever the parts do."""
    text = "\0".join(f"{len(part)}:{part}" for part in map(str, parts))  # no two lists of parts give the same
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=16).digest()


class Table:
    """Rows of one shape and type, by name.

    Args:
        folder: Of the table; made if need be.
        shape: Of a row.
        dtype: Of its numbers.
    """

    def __init__(self, folder: Path, shape: Sequence[int], dtype: np.dtype[Any] | type) -> None:
        """Open the table and read its index."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.shape, self.dtype = folder, tuple(shape), np.dtype(dtype)
        self.row_bytes = int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize
        for file in (_ROWS, _INDEX):
            (folder / file).touch()
        self._lock = FileLock(folder / _LOCK)
        self._of_name: dict[bytes, int] = {}
        self._lines = np.empty(0, _LINE)
        self._good: set[int] = set()
        self._refresh()

    def __contains__(self, name: bytes) -> bool:
        """Whether a row of this name was there at the last look; only `find` tells whether it is whole."""
        return name in self._of_name

    def find(self, names: Sequence[bytes]) -> np.ndarray:
        """Row numbers of these names, int64 (N,); -1 where there is none, or where it is damaged."""
        self._refresh()
        numbers = np.array([self._of_name.get(name, -1) for name in names], dtype=np.int64)
        unseen = [int(i) for i in np.unique(numbers[numbers >= 0]) if int(i) not in self._good]
        bad = self._damaged(unseen)
        self._good.update(set(unseen) - set(bad))
        for number in bad:
            self._of_name.pop(self._lines[number]["name"].tobytes(), None)
        if bad:
            numbers[np.isin(numbers, bad)] = -1
        return numbers

    def append(self, names: Sequence[bytes], rows: np.ndarray) -> np.ndarray:
        """Add rows, (n, *shape); returns their numbers, int64 (n,)."""
        if rows.shape != (len(names), *self.shape) or rows.dtype != self.dtype:
            raise ValueError(f"rows {rows.shape} {rows.dtype}; expected {(len(names), *self.shape)} {self.dtype}")
        rows = np.ascontiguousarray(rows)
        lines = np.empty(len(names), _LINE)
        for i, name in enumerate(names):
            lines[i] = (name, zlib.crc32(rows[i].view(np.uint8).data))
        with self._lock:
            self._refresh()
            first = len(self._lines)
            # What a killed writer left without a line in the index goes.
            for file, size, data in (
                (_ROWS, first * self.row_bytes, rows.view(np.uint8).data),
                (_INDEX, first * _LINE.itemsize, lines.tobytes()),
            ):
                with (self.folder / file).open("r+b") as handle:
                    handle.truncate(size)
                    handle.seek(size)
                    handle.write(data)
        self._refresh()
        numbers = np.arange(first, first + len(names))
        self._good.update(numbers.tolist())
        return numbers

    def read(self, numbers: np.ndarray) -> np.ndarray:
        """A copy of some rows, (n, *shape)."""
        # Not by a memory map: of rows here and there the system maps so much around each that it seems memory in use.
        rows = np.empty((len(numbers), *self.shape), self.dtype)
        flat = rows.reshape(-1).view(np.uint8)
        with (self.folder / _ROWS).open("rb", buffering=0) as file:
            for start, end in _runs(numbers):
                file.seek(int(numbers[start]) * self.row_bytes)
                _read_into(file, flat[start * self.row_bytes : end * self.row_bytes])
        return rows

    def read_list(self) -> np.ndarray | None:
        """All rows of a table that `write_list` made, (n, *shape); None without them, or if one is damaged."""
        head = self.find([name_of("count")])
        if head[0] < 0:
            return None
        count = int(self.read(head).flat[0])
        numbers = self.find([name_of(i) for i in range(count)])
        return None if (numbers < 0).any() else self.read(numbers)

    def write_list(self, rows: np.ndarray) -> np.ndarray:
        """Keep rows, (n, *shape), as a list; returns them."""
        head = np.zeros((1, *self.shape), self.dtype)
        head.flat[0] = len(rows)
        # All at once, so that the count is never there without its rows.
        self.append([name_of("count"), *(name_of(i) for i in range(len(rows)))], np.concatenate([head, rows]))
        return rows

    def _refresh(self) -> None:
        """Take in the lines that this or another process has added."""
        known = len(self._lines)
        with (self.folder / _INDEX).open("rb") as file:
            file.seek(known * _LINE.itemsize)
            data = file.read()
        whole = (self.folder / _ROWS).stat().st_size // self.row_bytes
        count = min(len(data) // _LINE.itemsize, max(0, whole - known))
        if count:
            new = np.frombuffer(data[: count * _LINE.itemsize], _LINE)
            self._lines = np.concatenate([self._lines, new])
            self._of_name.update(zip(new["name"].tolist(), range(known, known + count), strict=True))

    def _damaged(self, numbers: Sequence[int]) -> list[int]:
        """Those of some rows whose checksum is wrong."""
        if not numbers:
            return []

        def check(some: Sequence[int]) -> list[int]:
            bad = []
            with (self.folder / _ROWS).open("rb") as file:
                for number in some:
                    file.seek(number * self.row_bytes)
                    if zlib.crc32(file.read(self.row_bytes)) != checksums[number]:
                        bad.append(number)
            return bad

        checksums = self._lines["checksum"]
        parts = min(len(numbers), os.cpu_count() or 1)
        with ThreadPoolExecutor(parts) as pool:
            return sorted(
                number for bad in pool.map(check, [numbers[i::parts] for i in range(parts)]) for number in bad
            )


def _runs(numbers: np.ndarray) -> Iterator[tuple[int, int]]:
    """Where runs of numbers that follow one another begin and end."""
    ends = np.flatnonzero(np.diff(numbers) != 1) + 1
    bounds = [0, *ends.tolist(), len(numbers)]
    return pairwise(bounds) if len(numbers) else iter(())


def _read_into(file: FileIO, data: np.ndarray) -> None:
    done = 0
    while done < len(data):
        count = file.readinto(data[done:].data)
        if not count:
            raise OSError(f"{file.name} ends too early")
        done += count


@dataclass(frozen=True)
class Entry:
    """A table, as `regraft cache` shows it.

    Attributes:
        folder: Of the table.
        kind: What its rows are.
        key: What they depend on, besides the image.
        rows: How many there are.
        size: Bytes on disk.
        used: When it was last opened, seconds since 1970.
    """

    folder: Path
    kind: str
    key: Mapping[str, Any]
    rows: int
    size: int
    used: float


class Store:
    """All tables of this machine's user.

    Args:
        root: Their folder; default: `$REGRAFT_CACHE`, or the system's place for caches.
        limit: Bytes that all tables together may take.
    """

    def __init__(self, root: Path | None = None, *, limit: int = DEFAULT_LIMIT) -> None:
        """Nothing is read or written yet."""
        given = os.environ.get("REGRAFT_CACHE")
        self.root = root or (Path(given) if given else user_cache_path("regraft"))
        self.limit = limit
        self._open: dict[Path, Table] = {}

    def table(self, kind: str, key: Mapping[str, Any], shape: Sequence[int], dtype: Any) -> Table:
        """The table of these rows, new or as it was left.

        Args:
            kind: What the rows are, such as `pixels`.
            key: All that they depend on besides the image: plain values.
            shape: Of a row.
            dtype: NumPy type of its numbers.
        """
        described = {"kind": kind, "key": dict(key), "shape": list(shape), "dtype": np.dtype(dtype).str}
        text = json.dumps(described, sort_keys=True)
        folder = self.root / f"{kind}-{hashlib.blake2b(text.encode(), digest_size=12).hexdigest()}"
        if folder not in self._open:
            self._open[folder] = Table(folder, shape, dtype)
            if not (folder / _DESCRIPTION).exists():
                write_json(folder / _DESCRIPTION, described)
        os.utime(folder / _DESCRIPTION)
        return self._open[folder]

    def recall(self, kind: str, key: object) -> Any:
        """What was remembered about a key, or None."""
        try:
            return json.loads((self.root / f"{kind}.json").read_text(encoding="utf-8")).get(json.dumps(key))
        except (OSError, ValueError):
            return None

    def remember(self, kind: str, key: object, value: Any) -> Any:
        """Keep a small value, such as a measurement, for later runs; returns the one that was kept first."""
        self.root.mkdir(parents=True, exist_ok=True)
        file = self.root / f"{kind}.json"
        with FileLock(self.root / f".{kind}.lock"):
            try:
                known = json.loads(file.read_text(encoding="utf-8"))
            except (OSError, ValueError):
                known = {}
            known = {json.dumps(key): value, **known}
            write_json(file, known)
        return known[json.dumps(key)]

    def make_room(self, size: int) -> bool:
        """Remove the least recently used tables until `size` more bytes are within the limit.

        What was used within the last hour stays: a process may be at work with it. Returns whether there is room now.
        """
        entries = sorted(self.entries(), key=lambda entry: entry.used)
        total = sum(entry.size for entry in entries)
        for entry in entries:
            if total + size <= self.limit or time.time() - entry.used < _IN_USE:
                break
            self.remove(entry)
            total -= entry.size
        return total + size <= self.limit

    def entries(self) -> list[Entry]:
        """Every table, the largest first."""
        return sorted(self._entries(), key=lambda entry: -entry.size)

    def remove(self, entry: Entry) -> None:
        """Remove a table."""
        shutil.rmtree(entry.folder, ignore_errors=True)

    def prune(self, *, to: int = 0, older_than: float = 0.0) -> list[Entry]:
        """Remove tables, the least recently used first, until at most `to` bytes are left.

        Args:
            to: Bytes that may stay.
            older_than: Only tables that were not used for so many seconds.

        Returns:
            What was removed.
        """
        entries = sorted(self.entries(), key=lambda entry: entry.used)
        total = sum(entry.size for entry in entries)
        removed = []
        for entry in entries:
            if total <= to or time.time() - entry.used < older_than:
                break
            self.remove(entry)
            total -= entry.size
            removed.append(entry)
        return removed

    def _entries(self) -> Iterator[Entry]:
        if not self.root.is_dir():
            return
        for folder in self.root.iterdir():
            with suppress(OSError, ValueError, KeyError):  # being written or removed at this moment
                described = json.loads((folder / _DESCRIPTION).read_text(encoding="utf-8"))
                files = {file.name: file.stat() for file in folder.iterdir()}
                yield Entry(
                    folder=folder,
                    kind=described["kind"],
                    key=described["key"],
                    rows=files[_INDEX].st_size // _LINE.itemsize,
                    size=sum(stat.st_size for stat in files.values()),
                    used=files[_DESCRIPTION].st_mtime,
                )
