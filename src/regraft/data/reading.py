"""Every file that was found is read, hashed and decoded once; what the store knows of it already is not read again.

Enters: names of files in a storage. Leaves: samples with their facts, what cannot be read, and small pictures on
demand. Three tables are kept: `hashes` (a file's times and size lead to the SHA-256 of its bytes), `facts` (that leads
to what an image is) and `thumbs` (and to its small picture).
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

from regraft.data.dataset import BadFile, Sample
from regraft.data.decode import DECODER_VERSION
from regraft.data.examiners import Answer, Apart, Examiner, Here, examine, name_of_content, reason
from regraft.data.facts import FACTS, FACTS_VERSION, RECORD, THUMB, facts_of
from regraft.data.layout import Found
from regraft.data.storage import Storage
from regraft.errors import DataError
from regraft.store import Store, Table, name_of

#: Records that wait to be kept, and files of one task at most.
_CHUNK, _TASK = 256, 16
#: Bytes of files out of archives that one thread holds at once.
_HELD = 4 * 2**20
#: So many files are worth another process, and so many processes there are at most.
_WORTH, _PROCESSES = 1000, 32


#: Called with (files done, files in all).
Progress = Callable[[int, int], None]


class Reader:
    """Reads the files of a storage.

    Args:
        storage: Of the files.
        root: Where that is.
        max_pixels: Larger images count as unreadable.
        store: Where the tables are.
    """

    def __init__(self, storage: Storage, root: Path | str, max_pixels: int, store: Store) -> None:
        """Open the tables."""
        self.storage, self.max_pixels = storage, max_pixels
        self._where = name_of(root.absolute() if isinstance(root, Path) else root)
        self._store = store
        self._key = {
            "decoder": DECODER_VERSION,
            "pillow": PIL.__version__,
            "max_pixels": max_pixels,
            "facts": FACTS_VERSION,
        }
        self.hashes = store.table("hashes", {}, (32,), np.uint8)
        self.facts = store.table("facts", self._key, (FACTS.itemsize,), np.uint8)

    @cached_property
    def thumbs(self) -> Table:
        """Small grey pictures, uint8 (THUMB, THUMB), by the content of the files."""
        return self._store.table("thumbs", self._key, (THUMB, THUMB), np.uint8)

    def read(
        self, found: Sequence[Found], workers: int, progress: Progress | None, *, apart: bool = True
    ) -> tuple[list[Sample], list[BadFile]]:
        """Read what is not known yet.

        Args:
            found: N names and labels.
            workers: Threads, and processes that they give the files to where these are many.
            progress: Called with (files done, N).
            apart: Whether there may be such processes.

        Returns:
            Samples in the order of `found`, and the unreadable.
        """
        stamps = [self._stamp(item.path) for item in found]
        digests = self._remembered(stamps)
        rows = np.full(len(found), -1)
        known = [i for i, digest in enumerate(digests) if digest]
        rows[known] = self.facts.find([name_of_content(digests[i]) for i in known])
        missing = np.flatnonzero(rows < 0)
        done = len(found) - len(missing)
        if progress and done:
            progress(done, len(found))
        reasons: dict[int, str] = {}
        new: dict[int, bytes] = {}
        # A task for a thread is several small files: one each would cost as much as reading it.
        length = max(1, min(_TASK, len(missing) // (64 * workers)))
        tasks = [missing[start : start + length].tolist() for start in range(0, len(missing), length)]
        with self._examiners(workers, len(missing) if apart else 0) as free, ThreadPoolExecutor(workers) as pool:

            def answered(task: list[int]) -> list[Answer]:
                examiner = free.get()
                try:
                    return self._ask(examiner, [found[i].path for i in task])
                finally:
                    free.put(examiner)

            try:
                for task, answers in zip(tasks, pool.map(answered, tasks), strict=True):
                    for i, (digest, answer) in zip(task, answers, strict=True):
                        digests[i] = digest
                        if isinstance(answer, str):
                            reasons[i] = answer
                        elif answer is not None:
                            new[i] = answer
                        done += 1
                        if progress:
                            progress(done, len(found))
                    if len(new) >= _CHUNK:
                        self._keep(new, rows, digests, stamps)
            except BaseException:  # Ctrl-C: the files that wait are not read
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        self._keep(new, rows, digests, stamps)
        self._find_known(found, missing, rows, digests, stamps, reasons)
        bad = [BadFile(found[i].path, why) for i, why in sorted(reasons.items())]
        good = np.flatnonzero(rows >= 0)
        samples: list[Sample] = []
        for start in range(0, len(good), 4096):
            part = good[start : start + 4096]
            for i, facts in zip(part.tolist(), facts_of(self.facts.read(rows[part])), strict=True):
                item, size = found[i], (facts.width, facts.height)
                samples.append(Sample(item.path, item.label, digests[i], item.part, item.group, size, facts))
        return samples, bad

    def find_thumbs(self, samples: Sequence[Sample]) -> np.ndarray:
        """Where the small pictures of samples are in the table `thumbs`, int64 (n,).

        Raises:
            DataError: One is damaged there, and its file is no longer what it was when it was read.
        """
        rows = self.thumbs.find([name_of_content(sample.sha256) for sample in samples])
        for i in np.flatnonzero(rows < 0).tolist():
            sample = samples[i]
            ((digest, _),) = self._ask(Here(self.facts, self.max_pixels), [sample.path])
            answer = examine(self.storage.read(sample.path), self.max_pixels) if digest == sample.sha256 else ""
            if isinstance(answer, str):
                raise DataError(f"{sample.path} has changed while it was read. Start again.")
            rows[i] = self._append_thumbs([name_of_content(digest)], np.frombuffer(answer, RECORD))[0]
        return rows

    @contextmanager
    def _examiners(self, workers: int, files: int) -> Iterator[SimpleQueue[Examiner]]:
        """Those that are free: as many as there are threads."""
        free: SimpleQueue[Examiner] = SimpleQueue()
        processes = min(workers, files // _WORTH, _PROCESSES)
        apart = [Apart(self.facts.folder, self.max_pixels) for _ in range(processes if processes > 1 else 0)]
        here = Here(self.facts, self.max_pixels)
        for number in range(len(apart) or workers):
            free.put(apart[number] if apart else here)
        try:
            yield free
        finally:
            for examiner in apart:
                examiner.end()

    def _ask(self, examiner: Examiner, paths: Sequence[str]) -> list[Answer]:
        """An answer for each path, also where the storage has nothing."""
        answers: list[Answer] = []
        waiting: list[Path | bytes] = []

        def ask() -> None:
            if waiting:
                answers.extend(examiner(waiting))
                waiting.clear()

        for path in paths:
            try:
                source = self.storage.source(path)
            except (OSError, ValueError) as error:
                ask()
                answers.append(("", reason(error)))
                continue
            assert isinstance(source, (Path, bytes))
            waiting.append(source)
            if sum(len(file) for file in waiting if isinstance(file, bytes)) >= _HELD:
                ask()
        ask()
        return answers

    def _find_known(
        self,
        found: Sequence[Found],
        missing: np.ndarray,
        rows: np.ndarray,
        digests: list[str],
        stamps: Sequence[bytes | None],
        reasons: dict[int, str],
    ) -> None:
        """Take what the store had under the content of files; where that is damaged, examine them again."""
        left = [i for i in missing.tolist() if rows[i] < 0 and i not in reasons]
        rows[left] = self.facts.find([name_of_content(digests[i]) for i in left])
        self._remember([(stamps[i], digests[i]) for i in left if rows[i] >= 0])
        for i in left:
            if rows[i] < 0:
                try:
                    answer = examine(self.storage.read(found[i].path), self.max_pixels)
                except (OSError, ValueError) as error:
                    answer = reason(error)
                if isinstance(answer, str):
                    reasons[i] = answer
                else:
                    self._keep({i: answer}, rows, digests, stamps)

    def _stamp(self, path: str) -> bytes | None:
        """The name under which the content's hash is remembered; None where the file may have changed unseen."""
        try:
            stamp = self.storage.stamp(path)
        except (OSError, ValueError):  # reading it will tell
            return None
        return None if stamp is None else blake2b(f"{path}\0{stamp}".encode(), key=self._where, digest_size=16).digest()

    def _remembered(self, stamps: Sequence[bytes | None]) -> list[str]:
        """SHA-256 of each, or an empty text."""
        known = [i for i, stamp in enumerate(stamps) if stamp]
        rows = self.hashes.find([stamp for stamp in stamps if stamp])
        digests = [""] * len(stamps)
        there = rows >= 0
        values = self.hashes.read(rows[there])
        for i, value in zip(np.array(known, np.int64)[there].tolist(), values, strict=True):
            digests[i] = value.tobytes().hex()
        return digests

    def _remember(self, pairs: Sequence[tuple[bytes | None, str]]) -> None:
        pairs = [(stamp, digest) for stamp, digest in pairs if stamp]
        if pairs:
            values = np.stack([np.frombuffer(bytes.fromhex(digest), np.uint8) for _, digest in pairs])
            self.hashes.append([stamp for stamp, _ in pairs if stamp], values)

    def _keep(
        self, new: dict[int, bytes], rows: np.ndarray, digests: Sequence[str], stamps: Sequence[bytes | None]
    ) -> None:
        """Put records into the store, and their numbers there into `rows`; `new` is emptied."""
        if new:
            names, records = [name_of_content(digests[i]) for i in new], np.frombuffer(b"".join(new.values()), RECORD)
            self._append_thumbs(names, records)  # first: what has facts has a picture, also after a kill
            facts = np.ascontiguousarray(records["facts"]).view(np.uint8).reshape(len(new), -1)
            rows[list(new)] = self.facts.append(names, facts)
            self._remember([(stamps[i], digests[i]) for i in new])
            new.clear()

    def _append_thumbs(self, names: Sequence[bytes], records: np.ndarray) -> np.ndarray:
        return self.thumbs.append(names, np.ascontiguousarray(records["thumb"]))
