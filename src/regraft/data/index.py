"""Read, hash and examine each image file once, and cache the result for later runs.

Three tables are cached: `hashes` has the SHA-256 of a file's bytes by its change times, `image_stats` the stats by the
SHA-256, and `thumbnails` the thumbnail by the SHA-256. Unreadable files are read again by each scan.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from queue import SimpleQueue

import numpy as np
import PIL

from regraft.cache import Cache, Table, cache_key
from regraft.data.dataset import BadFile, Sample
from regraft.data.decode import DECODER_VERSION
from regraft.data.image_stats import RECORD_DTYPE, STATS_DTYPE, STATS_VERSION, THUMBNAIL_SIZE, stats_of
from regraft.data.index_workers import (
    Answer,
    Examiner,
    InProcessWorker,
    SubprocessWorker,
    Unreadable,
    content_key,
    examine,
    unreadable,
)
from regraft.data.sources.manifest import ImageEntry
from regraft.data.storage import Storage, image_error
from regraft.errors import DataError, ImageErrorCode

#: Records that are stored at once, and the largest number of files in a task.
_CHUNK, _TASK = 256, 16
#: Bytes of files out of archives that a thread keeps in memory at once.
_MAX_BYTES = 4 * 2**20
#: Number of files that justifies another process, and the largest number of processes.
_FILES_PER_PROCESS, _MAX_PROCESSES = 1000, 32

#: Called with (files done, all files).
Progress = Callable[[int, int], None]


class ImageIndex:
    """Reads the files of a storage, except those in the cache; larger images than `max_pixels` are unreadable."""

    def __init__(self, storage: Storage, root: Path | str, max_pixels: int, cache: Cache) -> None:
        self.storage, self.max_pixels = storage, max_pixels
        self._root_key = cache_key(root.absolute() if isinstance(root, Path) else root)
        self._cache = cache
        versions = {"decoder": DECODER_VERSION, "pillow": PIL.__version__, "stats": STATS_VERSION}
        self._key = {**versions, "max_pixels": max_pixels}
        self.hashes = cache.table("hashes", {}, (32,), np.uint8)
        self.image_stats = cache.table("image_stats", self._key, (STATS_DTYPE.itemsize,), np.uint8)

    @cached_property
    def thumbnails(self) -> Table:
        """Thumbnails by content, uint8 (THUMBNAIL_SIZE, THUMBNAIL_SIZE)."""
        return self._cache.table("thumbnails", self._key, (THUMBNAIL_SIZE, THUMBNAIL_SIZE), np.uint8)

    def read(
        self, found: Sequence[ImageEntry], workers: int, progress: Progress | None, *, subprocesses: bool = True
    ) -> tuple[list[Sample], list[BadFile]]:
        """Read every file that is not in the cache: samples in the order of `found`, and the unreadable files.

        With `subprocesses`, many files are read by other processes, to which the `workers` threads hand them over.
        """
        stamps = [self._stamp_key(entry.path) for entry in found]
        digests = self._cached_digests(stamps)
        rows = np.full(len(found), -1)
        hashed = [i for i, digest in enumerate(digests) if digest]
        rows[hashed] = self.image_stats.find([content_key(digests[i]) for i in hashed])
        missing = np.flatnonzero(rows < 0)
        done = len(found) - len(missing)
        if progress and done:
            progress(done, len(found))
        reasons: dict[int, Unreadable] = {}
        new: dict[int, bytes] = {}
        # A task has several files: handing over one small file would cost as much as reading it.
        length = max(1, min(_TASK, len(missing) // (64 * workers)))
        tasks = [missing[start : start + length].tolist() for start in range(0, len(missing), length)]
        with self._examiners(workers, len(missing) if subprocesses else 0) as free, ThreadPoolExecutor(workers) as pool:

            def run(task: list[int]) -> list[Answer]:
                examiner = free.get()
                try:
                    return self._examine(examiner, [found[i].path for i in task])
                finally:
                    free.put(examiner)

            try:
                for task, answers in zip(tasks, pool.map(run, tasks), strict=True):
                    for i, (digest, answer) in zip(task, answers, strict=True):
                        digests[i] = digest
                        if isinstance(answer, bytes):
                            new[i] = answer
                        elif answer is not None:
                            reasons[i] = answer
                        done += 1
                        if progress:
                            progress(done, len(found))
                    if len(new) >= _CHUNK:
                        self._store(new, rows, digests, stamps)
            except BaseException:  # on Ctrl-C the queued files are not read
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        self._store(new, rows, digests, stamps)
        self._find_by_content(found, missing, rows, digests, stamps, reasons)
        bad = [BadFile(found[i].path, why, ImageErrorCode(code)) for i, (why, code) in sorted(reasons.items())]
        good = np.flatnonzero(rows >= 0)
        samples: list[Sample] = []
        for start in range(0, len(good), 4096):
            part = good[start : start + 4096]
            for i, stats in zip(part.tolist(), stats_of(self.image_stats.read(rows[part])), strict=True):
                entry, size = found[i], (stats.width, stats.height)
                samples.append(Sample(entry.path, entry.label, digests[i], entry.part, entry.group, size, stats))
        return samples, bad

    def find_thumbnails(self, samples: Sequence[Sample]) -> np.ndarray:
        """Row numbers of the samples' thumbnails in the table `thumbnails`, int64 (n,).

        Raises `DataError` if a thumbnail is damaged and its file has changed since it was read.
        """
        rows = self.thumbnails.find([content_key(sample.sha256) for sample in samples])
        for i in np.flatnonzero(rows < 0).tolist():
            sample = samples[i]
            ((digest, _),) = self._examine(InProcessWorker(self.image_stats, self.max_pixels), [sample.path])
            answer = examine(self.storage.read(sample.path), self.max_pixels) if digest == sample.sha256 else None
            if not isinstance(answer, bytes):
                raise DataError(f"{sample.path} changed while the data was read. Start again.")
            rows[i] = self._append_thumbnails([content_key(digest)], np.frombuffer(answer, RECORD_DTYPE))[0]
        return rows

    @contextmanager
    def _examiners(self, workers: int, files: int) -> Iterator[SimpleQueue[Examiner]]:
        free: SimpleQueue[Examiner] = SimpleQueue()
        count = min(workers, files // _FILES_PER_PROCESS, _MAX_PROCESSES)
        processes = [SubprocessWorker(self.image_stats.folder, self.max_pixels) for _ in range(count) if count > 1]
        in_process = InProcessWorker(self.image_stats, self.max_pixels)
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
            assert isinstance(source, (Path, bytes))
            batch.append(source)
            if sum(len(file) for file in batch if isinstance(file, bytes)) >= _MAX_BYTES:
                flush()
        flush()
        return answers

    def _find_by_content(
        self,
        found: Sequence[ImageEntry],
        missing: np.ndarray,
        rows: np.ndarray,
        digests: list[str],
        stamps: Sequence[bytes | None],
        reasons: dict[int, Unreadable],
    ) -> None:
        """Find the rows of files whose content is in the cache; examine them again if the row is damaged."""
        rest = [i for i in missing.tolist() if rows[i] < 0 and i not in reasons]
        rows[rest] = self.image_stats.find([content_key(digests[i]) for i in rest])
        self._store_digests([(stamps[i], digests[i]) for i in rest if rows[i] >= 0])
        for i in rest:
            if rows[i] < 0:
                try:
                    answer = examine(self.storage.read(found[i].path), self.max_pixels)
                except (OSError, ValueError) as error:
                    answer = unreadable(image_error(error))
                if isinstance(answer, bytes):
                    self._store({i: answer}, rows, digests, stamps)
                else:
                    reasons[i] = answer

    def _stamp_key(self, path: str) -> bytes | None:
        """Cache key of the file's hash; None if the file may have changed without a trace."""
        try:
            stamp = self.storage.stamp(path)
        except (OSError, ValueError):  # reading the file will fail and give the reason
            return None
        if stamp is None:
            return None
        return blake2b(f"{path}\0{stamp}".encode(), key=self._root_key, digest_size=16).digest()

    def _cached_digests(self, stamps: Sequence[bytes | None]) -> list[str]:
        """SHA-256 of each file, or an empty string if it is not cached."""
        known = [i for i, stamp in enumerate(stamps) if stamp]
        rows = self.hashes.find([stamp for stamp in stamps if stamp])
        digests = [""] * len(stamps)
        hit = rows >= 0
        for i, value in zip(np.array(known, np.int64)[hit].tolist(), self.hashes.read(rows[hit]), strict=True):
            digests[i] = value.tobytes().hex()
        return digests

    def _store_digests(self, pairs: Sequence[tuple[bytes | None, str]]) -> None:
        if known := [(stamp, digest) for stamp, digest in pairs if stamp]:
            values = np.stack([np.frombuffer(bytes.fromhex(digest), np.uint8) for _, digest in known])
            self.hashes.append([stamp for stamp, _ in known], values)

    def _store(
        self, new: dict[int, bytes], rows: np.ndarray, digests: Sequence[str], stamps: Sequence[bytes | None]
    ) -> None:
        """Move records from `new` to the tables and set their numbers in `rows`."""
        if new:
            keys, records = [content_key(digests[i]) for i in new], np.frombuffer(b"".join(new.values()), RECORD_DTYPE)
            self._append_thumbnails(keys, records)  # first, so that after a kill every row of stats has a thumbnail
            stats = np.ascontiguousarray(records["stats"]).view(np.uint8).reshape(len(new), -1)
            rows[list(new)] = self.image_stats.append(keys, stats)
            self._store_digests([(stamps[i], digests[i]) for i in new])
            new.clear()

    def _append_thumbnails(self, keys: Sequence[bytes], records: np.ndarray) -> np.ndarray:
        return self.thumbnails.append(keys, np.ascontiguousarray(records["thumbnail"]))
