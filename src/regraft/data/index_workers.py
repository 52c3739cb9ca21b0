"""Read, hash and examine image files, in this process or in others.

Python runs one thread at a time, so threads read many small files hardly faster than one thread does. Processes do.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from regraft.cache import Table
from regraft.data.decode import STREAM, is_stream, pixels_sha256
from regraft.data.image_stats import RECORD_DTYPE, examine_image, measure
from regraft.data.storage import image_error
from regraft.errors import ImageError, ImageErrorCode
from regraft.worker_process import Handler, Message, WorkerProcess


class Unreadable(NamedTuple):
    """Why a file cannot be read."""

    reason: str
    code: ImageErrorCode = ImageErrorCode.UNREADABLE


#: SHA-256 of a file; then a `RECORD_DTYPE` as bytes, why there is none, or None if the table has this content.
Answer = tuple[str, bytes | Unreadable | None]
#: Examines files, each given by its path or its bytes.
Examiner = Callable[[Sequence[Path | bytes]], list[Answer]]

#: Files below this size in bytes are read by one thread at a time: several would wait for the interpreter.
_SMALL = 16 * 2**10


class InProcessWorker:
    """Examine files in this process, except contents in the table `known`; safe to use from several threads."""

    def __init__(self, known: Table, max_pixels: int) -> None:
        """Store the arguments."""
        self._table, self._max_pixels = known, max_pixels
        self._lock, self._are_small = threading.Lock(), False

    def __call__(self, files: Sequence[Path | bytes]) -> list[Answer]:
        """Examine each file."""
        with self._lock if self._are_small else nullcontext():
            return [self._answer(file) for file in files]

    def refresh(self) -> None:
        """Find out which contents other processes have examined."""
        self._table.refresh()

    def _answer(self, file: Path | bytes) -> Answer:
        try:
            if isinstance(file, Path) and is_stream(file):
                return "", Unreadable(STREAM)
            data = file if isinstance(file, bytes) else file.read_bytes()
        except (OSError, ValueError) as error:  # ValueError: not a valid path, such as one with a null byte
            return "", unreadable(image_error(error))
        self._are_small = len(data) < _SMALL
        digest = hashlib.sha256(data).hexdigest()
        if content_key(digest) in self._table:
            return digest, None
        return digest, examine(data, self._max_pixels)


class SubprocessWorker:
    """Examine files in a process of its own, which starts with the first of them; for use by one thread.

    A file that crashes the process is reported as unreadable. If no process can be started, this process does the work.
    Contents in the table `known` are not examined.
    """

    def __init__(self, known: Table, max_pixels: int) -> None:
        """Store the arguments."""
        limits = {"max_pixels": max_pixels, "pillow_max_pixels": Image.MAX_IMAGE_PIXELS}
        self._settings = {"table": str(known.folder), "shape": known.shape, **limits}
        self._process: WorkerProcess | None = None
        self._fallback: InProcessWorker | None = None

    def __call__(self, files: Sequence[Path | bytes]) -> list[Answer]:
        """Examine each file."""
        if self._process is None and self._fallback is None:
            self._start()
        if self._process is None:
            assert self._fallback is not None
            return self._fallback(files)
        paths = [None if isinstance(file, bytes) else str(file) for file in files]
        reply = self._process.request(paths, [file for file in files if isinstance(file, bytes)])
        if isinstance(reply, Message):
            records = iter(reply.buffers)
            return [(digest, _decode(answer, records)) for digest, answer in reply.value]
        self._process = None
        if len(files) == 1:
            return [("", Unreadable(f"the decoder process {reply}"))]
        return [answer for file in files for answer in self([file])]

    def close(self) -> int:
        """Let the process end; its exit code."""
        process, self._process = self._process, None
        return 0 if process is None else process.close()

    def _start(self) -> None:
        try:
            # Ctrl-C is for the process that shows the user what happens.
            self._process = WorkerProcess(make_handler, self._settings, ignored_signals=["SIGINT"])
        except OSError:
            pass
        else:
            if self._process.wait_ready():
                return
            self.close()
        self._fallback = _in_process_worker(self._settings)


def make_handler(settings: dict[str, Any]) -> Handler:
    """The handler of a worker process: paths, with None for each of the buffers, become answers."""
    Image.MAX_IMAGE_PIXELS = settings["pillow_max_pixels"]
    worker = _in_process_worker(settings)

    def handle(request: Message, emit: Callable[[Any], None]) -> Message:
        worker.refresh()
        contents = iter(request.buffers)
        answers = worker([next(contents) if path is None else Path(path) for path in request.value])
        records = [answer for _, answer in answers if isinstance(answer, bytes)]
        return Message([(digest, isinstance(answer, bytes) or answer) for digest, answer in answers], records)

    return handle


def _decode(answer: Any, records: Iterator[bytes]) -> bytes | Unreadable | None:
    """An answer of a worker process, where True stands for the next record."""
    if answer is None:
        return None
    return next(records) if answer is True else Unreadable(answer[0], ImageErrorCode(answer[1]))


def examine(data: bytes, max_pixels: int) -> bytes | Unreadable:
    """The `RECORD_DTYPE` of an image as bytes, or why there is none."""
    try:
        return examine_image(data, max_pixels=max_pixels).tobytes()
    except ImageError as error:
        return unreadable(error)


def examine_pixels(pixels: np.ndarray) -> Answer:
    """The answer for an image in memory, uint8 (H, W, 3)."""
    record = np.zeros((), RECORD_DTYPE)
    thumbnail, *measures = measure(Image.fromarray(pixels))
    height, width = pixels.shape[:2]
    record["stats"] = (pixels.nbytes, width, height, "", "RGB", 1, 1, 0.0, *measures, 0.0, 0.0)
    record["thumbnail"] = thumbnail
    return pixels_sha256(pixels), record.tobytes()


def content_key(sha256: str) -> bytes:
    """The key of a file's content in the tables."""
    return bytes.fromhex(sha256)[:16]


def unreadable(error: ImageError) -> Unreadable:
    """The reason and its code."""
    return Unreadable(error.reason, error.code)


def _in_process_worker(settings: dict[str, Any]) -> InProcessWorker:
    table = Table(Path(settings["table"]), settings["shape"], np.uint8)
    return InProcessWorker(table, settings["max_pixels"])
