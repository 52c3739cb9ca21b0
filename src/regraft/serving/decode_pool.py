"""Decode images in worker processes that can be killed.

A file that makes a decoder hang, crash or allocate all memory ends a process that holds nothing but this image. Another
process takes its place.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from regraft.data.preprocessing import Preprocessing
from regraft.errors import ImageError, RegraftError
from regraft.resources import usable_cpus
from regraft.worker_process import Exited, Handler, Message, WorkerProcess

#: Longer side of the thumbnail under a heat map in pixels, and its JPEG quality.
THUMBNAIL_SIDE, _QUALITY = 640, 85
#: Seconds that a process has to start, and its address space in bytes.
_START_SECONDS, _MEMORY = 60.0, 8 * 2**30
#: Failed starts in a row after which no process is started any more.
_MAX_FAILURES = 3


@dataclass(frozen=True, eq=False)
class Decoded:
    """A preprocessed image: pixels uint8 (S, S, C); thumbnail the upright image as JPEG, empty if not asked for."""

    pixels: np.ndarray
    thumbnail: bytes = b""


class DecodingPool:
    """Worker processes that decode one image at a time each, within `seconds`; default: one process per core.

    `killed` is the number of processes that crashed or were killed so far.
    """

    def __init__(
        self, preprocessings: Sequence[Preprocessing], max_pixels: int, seconds: float, workers: int | None
    ) -> None:
        self._preprocessings, self._seconds = tuple(preprocessings), seconds
        self._settings = {"preprocessings": [p.to_json() for p in preprocessings], "max_pixels": max_pixels}
        self._count = workers or usable_cpus()
        self._threads = ThreadPoolExecutor(self._count, "regraft-decode")  # each waits for one process
        self._idle: asyncio.Queue[WorkerProcess] = asyncio.Queue()
        self._workers: set[WorkerProcess] = set()
        self._restarts: set[asyncio.Task[None]] = set()
        self._failures = 0
        self.killed = 0

    async def start(self) -> None:
        """Start the processes and wait until they are ready; raises `RegraftError` if none can be started."""
        await asyncio.gather(*(self._start_worker() for _ in range(self._count)))
        if self._idle.empty():
            raise RegraftError("No process that decodes images could be started. Its error is in the output above.")

    async def decode(self, data: bytes, preprocessing: int, *, thumbnail: bool = False) -> Decoded:
        """Decode an image file for a preprocessing by its index; raises `ImageError` if it fails or takes too long."""
        worker = await self._idle.get()
        # The process finishes its request even if the client has gone; only then is it idle again.
        request = asyncio.ensure_future(self._request(worker, data, preprocessing, thumbnail))
        request.add_done_callback(lambda done: done.cancelled() or done.exception())  # the client may have gone
        return await asyncio.shield(request)

    async def stop(self) -> None:
        """Kill the processes."""
        self._failures = _MAX_FAILURES
        for task in self._restarts:
            task.cancel()
        workers = list(self._workers)
        for worker in workers:
            worker.kill()
        await asyncio.to_thread(self._threads.shutdown)
        for worker in workers:
            worker.close()

    async def _request(self, worker: WorkerProcess, data: bytes, preprocessing: int, thumbnail: bool) -> Decoded:
        reply: Message | Exited | None = None
        try:
            question = [preprocessing, thumbnail]
            reply = await worker.in_thread(self._threads, self._seconds, worker.request, question, [data])
        except TimeoutError:
            raise ImageError(f"took more than {self._seconds:g} s to decode") from None
        finally:
            if isinstance(reply, Message):
                self._idle.put_nowait(worker)
            else:
                self.killed += 1
                self._workers.discard(worker)
                task = asyncio.ensure_future(self._start_worker())
                self._restarts.add(task)
                task.add_done_callback(self._restarts.discard)
        if isinstance(reply, Exited):
            raise ImageError(f"the decoder process {reply}")
        if reply.value is not None:
            raise ImageError(str(reply.value))
        shape = self._preprocessings[preprocessing].pixel_shape
        pixels, jpeg = reply.buffers
        return Decoded(np.frombuffer(pixels, np.uint8).reshape(shape), jpeg)

    async def _start_worker(self) -> None:
        while self._failures < _MAX_FAILURES:
            try:
                # Signals reach the whole process group. The server acts on them, and closes the pipe when it ends.
                worker = WorkerProcess(
                    make_handler, self._settings, ignored_signals=["SIGINT", "SIGTERM", "SIGHUP"], memory_bytes=_MEMORY
                )
            except OSError:
                self._failures += 1
                continue
            self._workers.add(worker)
            try:
                is_ready = await worker.in_thread(self._threads, _START_SECONDS, worker.wait_ready)
            except TimeoutError:
                is_ready = False
            if is_ready:
                self._failures = 0
                self._idle.put_nowait(worker)
                return
            self._failures += 1


def make_handler(settings: dict[str, Any]) -> Handler:
    """The handler of a worker process: an image becomes pixels and a thumbnail, or the reason why it cannot be read."""
    preprocessings = [Preprocessing.from_json(value) for value in settings["preprocessings"]]
    max_pixels = settings["max_pixels"]

    def handle(request: Message, emit: Callable[[Any], None]) -> Message:
        (index, wants_thumbnail), (data,) = request.value, request.buffers
        try:
            preprocessing = preprocessings[index]
            pixels = preprocessing(data, max_pixels=max_pixels).tobytes()
            thumbnail = _thumbnail(data, max_pixels, preprocessing) if wants_thumbnail else b""
            return Message(None, [pixels, thumbnail])
        except ImageError as error:
            return Message(error.reason)
        except MemoryError:
            return Message("needs more memory than there is")

    return handle


def _thumbnail(data: bytes, max_pixels: int, preprocessing: Preprocessing) -> bytes:
    image = Image.fromarray(preprocessing.picture(data, max_pixels=max_pixels, at_least=THUMBNAIL_SIDE))
    image.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=_QUALITY)
    return file.getvalue()
