"""Images are decoded in processes beside the server, which can be killed.

Enters: bytes of image files, and how they are prepared. Leaves: pixels, and for a heat map a small picture. What makes
a decoder hang, crash or ask for all memory ends a process that holds nothing but this image; another takes its place.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import signal
import struct
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from regraft.data.decode import decode_image
from regraft.data.preprocessing import Preprocessing
from regraft.errors import ImageError, RegraftError

#: What a new process runs; what it imports is found where this process found it.
_PROGRAM = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from regraft.serving.decoding import work; work()"
_READY = b"regraft decodes\n"
#: Before an image: its number of bytes, which preprocessing, whether a picture is wanted.
_QUESTION = struct.Struct("<IHB")
#: Before an answer: whether it went well, bytes of the pixels (or of the reason), bytes of the picture.
_ANSWER = struct.Struct("<BII")
#: Longer side of the picture under a heat map, in pixels, and the quality of its JPEG.
PICTURE_SIDE, _QUALITY = 640, 85
#: Seconds for a process to begin, bytes that it may ask the system for, and failed beginnings in a row.
_PATIENCE, _MEMORY, _FAILURES = 60.0, 8 * 2**30, 3
#: Seconds between its last word and its end.
_LAST = 5.0


@dataclass(frozen=True, eq=False)
class Decoded:
    """An image as the network reads it.

    Attributes:
        pixels: uint8 (S, S, 3).
        picture: The upright image as JPEG, its longer side at most `PICTURE_SIDE`; empty where it was not asked for.
    """

    pixels: np.ndarray
    picture: bytes = b""


class DecodingPool:
    """Some processes that decode, each one image at a time.

    Args:
        preprocessings: By the numbers that `decode` is given.
        max_pixels: Larger images cannot be read.
        seconds: For one image.
        workers: Processes.
    """

    def __init__(
        self, preprocessings: Sequence[Preprocessing], *, max_pixels: int, seconds: float, workers: int | None = None
    ) -> None:
        """Nothing is begun yet."""
        self._preprocessings, self._seconds = tuple(preprocessings), seconds
        self._settings = {"preprocessings": [p.to_json() for p in preprocessings], "max_pixels": max_pixels}
        self._count = workers or os.cpu_count() or 1
        self._free: asyncio.Queue[_Worker] = asyncio.Queue()
        self._all: set[_Worker] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._failures = 0
        self.killed = 0

    async def start(self) -> None:
        """Begin the processes; all are ready afterwards.

        Raises:
            RegraftError: One does not begin.
        """
        await asyncio.gather(*(self._begin() for _ in range(self._count)))
        if self._free.empty():
            raise RegraftError("No process that decodes images could be started; its own error stands above.")

    async def decode(self, data: bytes, preprocessing: int, *, picture: bool = False) -> Decoded:
        """Decode one image.

        Args:
            data: An image file.
            preprocessing: Its number.
            picture: Whether the picture is wanted.

        Raises:
            ImageError: It cannot be read, or not within the time.
        """
        worker = await self._free.get()
        # The process answers to the end also where nobody waits any longer; only then is it free again.
        asking = asyncio.ensure_future(self._ask(worker, data, preprocessing, picture))
        asking.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody may be left to hear it
        return await asyncio.shield(asking)

    async def stop(self) -> None:
        """End the processes."""
        for task in self._tasks:
            task.cancel()
        for worker in self._all:
            worker.kill()
        await asyncio.gather(*(worker.process.wait() for worker in self._all))

    async def _ask(self, worker: _Worker, data: bytes, preprocessing: int, picture: bool) -> Decoded:
        try:
            async with asyncio.timeout(self._seconds):
                pixels, drawn = await worker.ask(data, preprocessing, picture)
        except TimeoutError:
            worker.kill()
            raise ImageError(f"took more than {self._seconds:g} s to decode") from None
        except (OSError, EOFError):  # IncompleteReadError is an EOFError
            raise ImageError(f"reading it ended the process that did ({await worker.ended()})") from None
        finally:
            if worker.alive:
                self._free.put_nowait(worker)
            else:
                self.killed += 1
                self._all.discard(worker)
                task = asyncio.ensure_future(self._begin())
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
        size = self._preprocessings[preprocessing].size
        return Decoded(np.frombuffer(pixels, np.uint8).reshape(size, size, 3), drawn)

    async def _begin(self) -> None:
        while self._failures < _FAILURES:
            worker = await _Worker.begin(self._settings)
            if worker is not None:
                self._failures = 0
                self._all.add(worker)
                self._free.put_nowait(worker)
                return
            self._failures += 1


class _Worker:
    """One process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process, self._killed = process, False

    @classmethod
    async def begin(cls, settings: dict[str, object]) -> _Worker | None:
        """Start one, or None where it does not say that it is ready."""
        arguments = map(json.dumps, ([str(folder) for folder in sys.path], settings))
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-c", _PROGRAM, *arguments, stdin=pipe, stdout=pipe
        )
        worker = cls(process)
        assert process.stdout is not None
        with contextlib.suppress(TimeoutError, OSError, EOFError):
            async with asyncio.timeout(_PATIENCE):
                if await process.stdout.readexactly(len(_READY)) == _READY:
                    return worker
        worker.kill()
        return None

    @property
    def alive(self) -> bool:
        return not self._killed and self.process.returncode is None

    def kill(self) -> None:
        self._killed = True
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()

    async def ended(self) -> str:
        """How it did, once it has. To kill what is dead would take its exit code from who waits for it."""
        try:
            async with asyncio.timeout(_LAST):
                await self.process.wait()
        except TimeoutError:
            self.kill()
        self._killed = True
        code = await self.process.wait()
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"

    async def ask(self, data: bytes, preprocessing: int, picture: bool) -> tuple[bytes, bytes]:
        questions, answers = self.process.stdin, self.process.stdout
        assert questions is not None
        assert answers is not None
        questions.write(_QUESTION.pack(len(data), preprocessing, picture))
        questions.write(data)
        await questions.drain()
        good, length, drawn = _ANSWER.unpack(await answers.readexactly(_ANSWER.size))
        content = await answers.readexactly(length)
        if not good:
            raise ImageError(content.decode("utf-8", "replace"))
        return content, await answers.readexactly(drawn)


def work() -> None:
    """Decode what comes in, until no more does: what a process of the pool does."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):  # the server's affair, which closes the pipe at its own end
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    warnings.simplefilter("ignore")
    _bound_memory()
    settings = json.loads(sys.argv[2])
    preprocessings = [Preprocessing.from_json(value) for value in settings["preprocessings"]]
    # What a library prints must not come between the answers.
    with os.fdopen(os.dup(sys.stdout.fileno()), "wb") as answers, os.fdopen(os.dup(0), "rb") as questions:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        answers.write(_READY)
        answers.flush()
        while head := questions.read(_QUESTION.size):
            length, number, wanted = _QUESTION.unpack(head)
            data = questions.read(length)
            picture = b""
            try:
                content = preprocessings[number](data, max_pixels=settings["max_pixels"]).tobytes()
                if wanted:
                    picture = _picture(data, settings["max_pixels"])
                good = True
            except ImageError as error:
                content, good = error.reason.encode(), False
            except MemoryError:
                content, good = b"needs more memory than there is", False
            answers.write(_ANSWER.pack(good, len(content), len(picture)))
            answers.write(content)
            answers.write(picture)
            answers.flush()


def _picture(data: bytes, max_pixels: int) -> bytes:
    image = Image.fromarray(decode_image(data, max_pixels=max_pixels, at_least=PICTURE_SIDE))
    image.thumbnail((PICTURE_SIDE, PICTURE_SIDE), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=_QUALITY)
    return file.getvalue()


def _bound_memory() -> None:
    try:
        import resource
    except ImportError:  # Windows
        return
    with contextlib.suppress(ValueError, OSError):  # a lower bound is set already
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
