"""Run a request handler in a fresh Python process and talk to it over pipes.

A worker is a plain `python -c`: it is not forked, and it does not run the user's script again, which `multiprocessing`
does. Messages are JSON with byte buffers, not pickles, so a worker that a malicious file has taken over cannot make
this process run code.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import os
import signal
import struct
import subprocess
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import IO, Any, TypeVar

T = TypeVar("T")

#: The worker imports from where this process imports.
_PROGRAM = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from regraft.worker_process import worker_main; worker_main()"
)
#: The first line of a worker's output. Anything else comes from a Python that prints at startup.
_READY = b"regraft worker\n"
#: Length of a message's JSON part in bytes.
_LENGTH = struct.Struct("<I")
_REQUEST, _EVENT, _REPLY = "request", "event", "reply"
#: Seconds that a process has to end once its pipe is closed.
_EXIT_SECONDS = 60.0


@dataclass(frozen=True)
class Message:
    """A request or a reply: a JSON value, and bytes that belong to it, such as files or pixels."""

    value: Any
    buffers: Sequence[bytes] = ()


@dataclass(frozen=True)
class Exited:
    """The end of a worker process before it replied; the exit code is negative for a signal."""

    code: int

    def __str__(self) -> str:
        return f"was killed by {signal.Signals(-self.code).name}" if self.code < 0 else f"exited with code {self.code}"


#: Handles a request; the second argument sends an event, which is a JSON value.
Handler = Callable[[Message, Callable[[Any], None]], Message]


class WorkerProcess:
    """A Python process that handles one request at a time; for use by one thread.

    It calls `make_handler`, a function of an importable module, once with `settings`, a JSON value, and ignores the
    named signals, because this process acts on them. `memory_bytes` limits its address space where the system can. In a
    session of its own Ctrl-C does not reach it. Raises `OSError` if it cannot be started.
    """

    def __init__(
        self,
        make_handler: Callable[[Any], Handler],
        settings: Any = None,
        *,
        ignored_signals: Sequence[str] = (),
        memory_bytes: int | None = None,
        environment: Mapping[str, str] | None = None,
        own_session: bool = False,
    ) -> None:
        if not sys.executable or getattr(sys, "frozen", False):
            raise OSError("A frozen program has no Python interpreter that it could start.")
        handler = [make_handler.__module__, make_handler.__qualname__]
        limits = {"ignored_signals": list(ignored_signals), "memory_bytes": memory_bytes}
        job = {"handler": handler, "settings": settings, **limits}
        arguments = map(json.dumps, ([str(folder) for folder in sys.path], job))
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", _PROGRAM, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **(environment or {})},
            start_new_session=own_session,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests, self._replies = self._process.stdin, self._process.stdout
        self._ready: bool | None = None

    def wait_ready(self) -> bool:
        """Wait until the handler is made; False if the process ended or printed something else."""
        if self._ready is None:
            self._ready = self._replies.readline() == _READY
        return self._ready

    def request(
        self, value: Any, buffers: Sequence[bytes] = (), *, on_event: Callable[[Any], None] = lambda event: None
    ) -> Message | Exited:
        """Send a request and wait for the reply, or for the end of the process, which cannot be used again then.

        `on_event` is called with each event that the handler sends.
        """
        if not self.wait_ready():
            return Exited(self.close())
        try:
            _write(self._requests, _REQUEST, Message(value, buffers))
        except (OSError, ValueError):  # ValueError: the pipe was closed when the process ended
            return Exited(self.close())
        while True:
            try:
                kind, message = _read(self._replies)
            except (EOFError, OSError, ValueError):
                return Exited(self.close())
            if kind == _REPLY:
                return message
            on_event(message.value)

    async def in_thread(self, threads: Executor, seconds: float, call: Callable[..., T], *args: Any) -> T:
        """Call a blocking method of this worker from an event loop.

        Raises `TimeoutError` after `seconds`, when it has killed the process.
        """
        loop, expired = asyncio.get_running_loop(), False

        def expire() -> None:
            nonlocal expired
            expired = True
            self.kill()

        timer = loop.call_later(seconds, expire)
        try:
            result = await loop.run_in_executor(threads, call, *args)
        finally:
            timer.cancel()
        if expired:
            raise TimeoutError
        return result

    def interrupt(self, seconds: float) -> None:
        """Ask the process to stop as Ctrl-C does, and kill it if it has not ended after `seconds`."""
        self._process.send_signal(signal.SIGINT if os.name == "posix" else signal.SIGTERM)
        self.close(seconds)

    def kill(self) -> None:
        """End the process at once."""
        self._process.kill()

    def close(self, seconds: float = _EXIT_SECONDS) -> int:
        """Let the process end, and kill it if it has not after `seconds`; its exit code."""
        try:
            self._process.communicate(timeout=seconds)
        except (OSError, ValueError, subprocess.TimeoutExpired):
            self._process.kill()
        return self._process.wait()


def worker_main() -> None:
    """Handle requests until the other process closes the pipe: the main function of a worker process."""
    warnings.simplefilter("ignore")
    job = json.loads(sys.argv[2])
    for name in job["ignored_signals"]:
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    if size := job["memory_bytes"]:
        with contextlib.suppress(ImportError, ValueError, OSError):  # Windows, or a system with a lower limit
            import resource

            resource.setrlimit(resource.RLIMIT_AS, (size, size))
    with os.fdopen(os.dup(0), "rb") as requests, os.fdopen(os.dup(1), "wb") as replies, open(os.devnull) as nothing:
        # Whatever a library reads or prints must not come between the messages.
        os.dup2(nothing.fileno(), 0)
        os.dup2(2, 1)
        module, name = job["handler"]
        handle: Handler = getattr(importlib.import_module(module), name)(job["settings"])
        replies.write(_READY)
        replies.flush()
        while True:
            try:
                _, request = _read(requests)
            except EOFError:
                return
            try:
                reply = handle(request, lambda event: _write(replies, _EVENT, Message(event)))
            except KeyboardInterrupt:
                sys.exit(130)
            _write(replies, _REPLY, reply)


def _write(pipe: IO[bytes], kind: str, message: Message) -> None:
    head = json.dumps([kind, message.value, [len(buffer) for buffer in message.buffers]]).encode()
    pipe.write(_LENGTH.pack(len(head)) + head)
    for buffer in message.buffers:
        pipe.write(buffer)
    pipe.flush()


def _read(pipe: IO[bytes]) -> tuple[str, Message]:
    (length,) = _LENGTH.unpack(_read_exactly(pipe, _LENGTH.size))
    kind, value, lengths = json.loads(_read_exactly(pipe, length))
    return kind, Message(value, [_read_exactly(pipe, length) for length in lengths])


def _read_exactly(pipe: IO[bytes], length: int) -> bytes:
    data = pipe.read(length)
    if len(data) < length:
        raise EOFError
    return data
