"""Read, hash and examine each image file once, and cache the result for later runs.

Three tables are cached: `hashes` has the SHA-256 of a file's bytes by its change times, `image_stats` the stats by the
SHA-256, and `thumbnails` the thumbnail by the SHA-256. Unreadable files are read again by each scan.
"""

from __future__ import annotations

import uuid
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from queue import SimpleQueue
from typing import Protocol, TypeVar

import numpy as np
import PIL

from regraft.cache import Cache, Table, cache_key
from regraft.data.dataset import BadFile
from regraft.data.decode import DECODER_VERSION
from regraft.data.entries import EntryTable
from regraft.data.image_stats import RECORD_DTYPE, STATS_DTYPE, STATS_VERSION, THUMBNAIL_SIZE
from regraft.data.index_workers import (
    Answer,
    Examiner,
    InProcessWorker,
    SubprocessWorker,
    Unreadable,
    examine,
    examine_pixels,
    unreadable,
)
from regraft.data.samples import Columns, SampleTable
from regraft.data.storage import Contents, image_error
from regraft.data.strings import Names, in_blocks
from regraft.errors import DataError, ImageErrorCode
from regraft.key_index import KEY_BYTES

#: Records that are stored at once, and the largest number of files in a task.
_CHUNK, _TASK = 256, 16
#: Tasks in memory for each worker, and rows of a table that are read at once.
_AHEAD, _READ = 8, 4096
#: In place of a cache key.
_UNKNOWN = bytes(KEY_BYTES)
#: Bytes of files out of archives that a thread keeps in memory at once.
_MAX_BYTES = 4 * 2**20
#: Number of files that justifies another process, and the largest number of processes.
_FILES_PER_PROCESS, _MAX_PROCESSES = 1000, 32

#: Called with (files done, all files).
Progress = Callable[[int, int], None]
_Result = TypeVar("_Result")


class HashedFiles(Protocol):
    """Files whose contents are known: samples, or others."""

    @property
    def paths(self) -> np.ndarray:
        """Names in the storage, (N,)."""

    @property
    def hashes(self) -> np.ndarray:
        """SHA-256, uint8 (N, 32)."""


class ImageIndex:
    """Reads the files of a storage, except those in the cache; larger images than `max_pixels` are unreadable.

    Unless it `keeps_small`, the thumbnails of images that are no larger than a thumbnail are removed by `close`.
    """

    def __init__(
        self, storage: Contents, root: Path | str, max_pixels: int, cache: Cache, *, keeps_small: bool = True
    ) -> None:
        self.storage, self.max_pixels = storage, max_pixels
        self._root_key = cache_key(root.absolute() if isinstance(root, Path) else root)
        self._cache = cache
        versions = {"decoder": DECODER_VERSION, "pillow": PIL.__version__, "stats": STATS_VERSION}
        self._key = {**versions, "max_pixels": max_pixels}
        self._keeps_small = keeps_small
        self.hashes = cache.table("hashes", {}, (32,), np.uint8)
        self.image_stats = cache.table("image_stats", self._key, (STATS_DTYPE.itemsize,), np.uint8)

    @cached_property
    def thumbnails(self) -> Table:
        """Thumbnails by content, uint8 (THUMBNAIL_SIZE, THUMBNAIL_SIZE)."""
        return self._cache.table("thumbnails", self._key, (THUMBNAIL_SIZE, THUMBNAIL_SIZE), np.uint8)

    @cached_property
    def _passing(self) -> Table:
        """Thumbnails that `close` removes; after a kill the cache removes them as any table that is not used."""
        key = {**self._key, "scan": uuid.uuid4().hex}
        return self._cache.table("thumbnails", key, (THUMBNAIL_SIZE, THUMBNAIL_SIZE), np.uint8)

    def close(self) -> None:
        """Remove what only this scan needed."""
        if "_passing" in self.__dict__:
            self._cache.discard(self.__dict__.pop("_passing"))

    def read(
        self, found: EntryTable, workers: int, progress: Progress | None, *, subprocesses: bool = True
    ) -> tuple[SampleTable, list[BadFile]]:
        """Read every file that is not in the cache: samples in the order of `found`, and the unreadable files.

        With `subprocesses`, many files are read by other processes, to which the `workers` threads hand them over.
        """
        paths = found.paths
        files = _Files(len(found))
        for i, path in enumerate(in_blocks(paths)):
            files.stamps[i] = self._stamp_key(path)
        self._find_digests(files)
        hashed = np.flatnonzero(files.hashed)
        files.rows[hashed] = self.image_stats.find(files.content_keys(hashed))
        missing = np.flatnonzero(files.rows < 0)
        done = len(found) - len(missing)
        if progress and done:
            progress(done, len(found))
        reasons: dict[int, Unreadable] = {}
        new: dict[int, bytes] = {}
        answers = self._answers(paths, missing, workers, self.image_stats, subprocesses=subprocesses)
        with closing(answers):
            for i, digest, answer in answers:
                files.set_digest(i, digest)
                if isinstance(answer, bytes):
                    new[i] = answer
                elif answer is not None:
                    reasons[i] = answer
                done += 1
                if progress:
                    progress(done, len(found))
                if len(new) >= _CHUNK:
                    self._store(new, files)
        self._store(new, files)
        self._find_by_content(paths, missing, files, reasons)
        bad = [BadFile(paths[i], why, ImageErrorCode(code)) for i, (why, code) in sorted(reasons.items())]
        return self._samples(found, files), bad

    def _answers(
        self, paths: np.ndarray, numbers: np.ndarray, workers: int, known: Table, *, subprocesses: bool
    ) -> Generator[tuple[int, str, bytes | Unreadable | None]]:
        """Number and answer of each of these files, in order; the answer is None for a content that `known` has."""
        # A task has several files: handing over one small file would cost as much as reading it.
        length = max(1, min(_TASK, len(numbers) // (64 * workers)))
        tasks = (numbers[start : start + length] for start in range(0, len(numbers), length))
        count = len(numbers) if subprocesses else 0
        with self._examiners(workers, count, known) as free, ThreadPoolExecutor(workers) as pool:

            def run(task: np.ndarray) -> tuple[list[int], list[Answer]]:
                examiner = free.get()
                try:
                    return task.tolist(), self._examine(examiner, paths[task].tolist())
                finally:
                    free.put(examiner)

            try:
                for task, answers in _in_order(pool, run, tasks, _AHEAD * workers):
                    yield from ((i, *answer) for i, answer in zip(task, answers, strict=True))
            except BaseException:  # on Ctrl-C the queued files are not read
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _samples(self, found: EntryTable, files: _Files) -> SampleTable:
        good = np.flatnonzero(files.rows >= 0)
        stats = np.empty(len(good), STATS_DTYPE)
        for start in range(0, len(good), _READ):
            rows = files.rows[good[start : start + _READ]]
            stats[start : start + _READ] = self.image_stats.read(rows).view(STATS_DTYPE).reshape(-1)
        found, digests = (found, files.digests) if len(good) == len(found) else (found.take(good), files.digests[good])
        sizes = np.stack([stats["width"], stats["height"]], axis=1)
        near_duplicates = Names.none(len(good))
        columns = Columns(
            found.paths, found.labels, digests, found.parts, found.groups, sizes, stats, near_duplicates,
            found.pooled_groups,
        )  # fmt: skip
        return SampleTable(columns)

    def read_thumbnails(
        self, samples: HashedFiles, workers: int, *, subprocesses: bool = True, name: Callable[[str], str] = str
    ) -> Callable[[np.ndarray], np.ndarray]:
        """A function from sample numbers, int64 (n,), to thumbnails, uint8 (n, S, S), until `close`.

        Files whose thumbnail is not kept, or damaged, are read. Raises `DataError`, with the `name` of the path, if one
        has changed since the scan.
        """
        keys = np.ascontiguousarray(samples.hashes[:, :KEY_BYTES])
        tables = [self.thumbnails] if self._keeps_small else [self.thumbnails, self._passing]
        known, subprocesses = tables[-1], subprocesses and not self._keeps_small

        def find() -> np.ndarray:
            return np.stack([table.find(keys) for table in tables])

        missing, new = np.flatnonzero((find() < 0).all(axis=0)), dict[int, bytes]()
        answers = self._answers(samples.paths, missing, workers, known, subprocesses=subprocesses)
        with closing(answers):
            for i, digest, answer in answers:
                if digest != samples.hashes[i].tobytes().hex() or not isinstance(answer, bytes):
                    raise DataError(f"{name(samples.paths[i])} changed while the data was read. Start again.")
                new[i] = answer
                if len(new) >= _CHUNK or i == missing[-1]:
                    self._append_thumbnails(keys[list(new)], np.frombuffer(b"".join(new.values()), RECORD_DTYPE))
                    new.clear()
        rows = find()

        def read(numbers: np.ndarray) -> np.ndarray:
            thumbnails = np.empty((len(numbers), *self.thumbnails.shape), np.uint8)
            for table, found in zip(tables, rows[:, numbers], strict=True):
                thumbnails[found >= 0] = table.read(found[found >= 0])
            return thumbnails

        return read

    @contextmanager
    def _examiners(self, workers: int, files: int, known: Table) -> Iterator[SimpleQueue[Examiner]]:
        free: SimpleQueue[Examiner] = SimpleQueue()
        count = min(workers, files // _FILES_PER_PROCESS, _MAX_PROCESSES)
        processes = [SubprocessWorker(known, self.max_pixels) for _ in range(count) if count > 1]
        in_process = InProcessWorker(known, self.max_pixels)
        for number in range(len(processes) or workers):
            free.put(processes[number] if processes else in_process)
        try:
            yield free
        finally:
            for process in processes:
                process.close()

    def _examine(self, examiner: Examiner, paths: Sequence[str]) -> list[Answer]:
        """An answer for each path, including paths that the storage cannot read."""
        answers: list[Answer] = []
        batch: list[Path | bytes] = []

        def flush() -> None:
            if batch:
                answers.extend(examiner(batch))
                batch.clear()

        for path in paths:
            try:
                source = self.storage.source(path)
            except (OSError, ValueError) as error:
                flush()
                answers.append(("", unreadable(image_error(error))))
                continue
            if isinstance(source, np.ndarray):
                flush()
                answers.append(examine_pixels(source))
                continue
            assert isinstance(source, (Path, bytes))
            batch.append(source)
            if sum(len(file) for file in batch if isinstance(file, bytes)) >= _MAX_BYTES:
                flush()
        flush()
        return answers

    def _find_by_content(
        self, paths: np.ndarray, missing: np.ndarray, files: _Files, reasons: dict[int, Unreadable]
    ) -> None:
        """Find the rows of files whose content is in the cache; examine them again if the row is damaged."""
        rest = missing[files.rows[missing] < 0]
        rest = rest[~np.isin(rest, list(reasons))]
        files.rows[rest] = self.image_stats.find(files.content_keys(rest))
        self._store_digests(files, rest[files.rows[rest] >= 0])
        for i in rest[files.rows[rest] < 0].tolist():
            try:
                answer = examine(self.storage.read(paths[i]), self.max_pixels)
            except (OSError, ValueError) as error:
                answer = unreadable(image_error(error))
            if isinstance(answer, bytes):
                self._store({i: answer}, files)
            else:
                reasons[i] = answer

    def _stamp_key(self, path: str) -> bytes:
        """Cache key of the file's hash; `_UNKNOWN` if the file may have changed without a trace."""
        try:
            stamp = self.storage.stamp(path)
        except (OSError, ValueError):  # reading the file will fail and give the reason
            return _UNKNOWN
        if stamp is None:
            return _UNKNOWN
        return blake2b(f"{path}\0{stamp}".encode(), key=self._root_key, digest_size=KEY_BYTES).digest()

    def _find_digests(self, files: _Files) -> None:
        """Set the SHA-256 of each file for which it is cached."""
        known = np.flatnonzero(files.stamped)
        rows = self.hashes.find(files.stamp_keys(known))
        known, rows = known[rows >= 0], rows[rows >= 0]
        for start in range(0, len(rows), _READ):
            files.digests[known[start : start + _READ]] = self.hashes.read(rows[start : start + _READ])
        files.hashed[known] = True

    def _store_digests(self, files: _Files, numbers: np.ndarray) -> None:
        known = numbers[files.stamped[numbers]]
        if len(known):
            self.hashes.append(files.stamp_keys(known), files.digests[known])

    def _store(self, new: dict[int, bytes], files: _Files) -> None:
        """Move records from `new` to the tables and set their numbers in `files.rows`."""
        if not new:
            return
        numbers = np.array(list(new))
        keys = files.content_keys(numbers)
        _, first, copy_of = np.unique(keys, axis=0, return_index=True, return_inverse=True)
        rows = self.image_stats.find(keys[first])  # another process may have examined a copy before
        if fresh := np.flatnonzero(rows < 0).tolist():
            contents = list(new.values())
            records = np.frombuffer(b"".join(contents[first[i]] for i in fresh), RECORD_DTYPE)
            fresh_keys = keys[first[fresh]]
            self._append_thumbnails(fresh_keys, records)  # first, so that after a kill every row of stats has one
            stats = np.ascontiguousarray(records["stats"]).view(np.uint8).reshape(len(fresh), -1)
            rows[fresh] = self.image_stats.append(fresh_keys, stats)
        files.rows[numbers] = rows[copy_of.reshape(-1)]
        self._store_digests(files, numbers)
        new.clear()

    def _append_thumbnails(self, keys: np.ndarray, records: np.ndarray) -> None:
        stats = records["stats"]
        is_small = np.maximum(stats["width"], stats["height"]) <= THUMBNAIL_SIZE
        is_kept = ~is_small | self._keeps_small
        for chosen, name in ((is_kept, "thumbnails"), (~is_kept, "_passing")):
            if chosen.any():
                table: Table = getattr(self, name)
                table.append(keys[chosen], np.ascontiguousarray(records["thumbnail"][chosen]))


class _Files:
    """What is known about N files: the cache key of the hash, the SHA-256, and the row in the table of stats or -1."""

    def __init__(self, count: int) -> None:
        self.stamps = np.zeros(count, f"V{KEY_BYTES}")
        self.digests = np.zeros((count, 32), np.uint8)
        self.hashed = np.zeros(count, bool)
        self.rows = np.full(count, -1)

    @property
    def stamped(self) -> np.ndarray:
        """Whether a file has a key, bool (N,)."""
        return np.asarray(self.stamp_keys(slice(None)).any(axis=1))

    def stamp_keys(self, numbers: np.ndarray | slice) -> np.ndarray:
        """Keys of hashes, uint8 (n, 16)."""
        return self.stamps[numbers].view(np.uint8).reshape(-1, KEY_BYTES)

    def content_keys(self, numbers: np.ndarray) -> np.ndarray:
        """Keys of contents, uint8 (n, 16)."""
        return np.ascontiguousarray(self.digests[numbers, :KEY_BYTES])

    def set_digest(self, number: int, sha256: str) -> None:
        """Set a file's SHA-256; an empty string for none."""
        if sha256:
            self.digests[number] = np.frombuffer(bytes.fromhex(sha256), np.uint8)
            self.hashed[number] = True


def _in_order(
    pool: ThreadPoolExecutor, run: Callable[[np.ndarray], _Result], tasks: Iterable[np.ndarray], ahead: int
) -> Iterator[_Result]:
    """The results of tasks in order, of which at most `ahead` are in memory."""
    queue: deque[Future[_Result]] = deque()
    for task in tasks:
        queue.append(pool.submit(run, task))
        if len(queue) >= ahead:
            yield queue.popleft().result()
    while queue:
        yield queue.popleft().result()
