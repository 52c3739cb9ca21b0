"""Worker processes: requests, events, and every way to end."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from regraft.worker_process import Exited, Handler, Message, WorkerProcess

MODULE = """
import os, sys, time
from regraft.worker_process import Message

def make(settings):
    print("printed while starting")
    def handle(request, emit):
        print("printed while handling", sys.stdin.read())
        what = request.value
        if what == "echo":
            for number in range(3):
                emit([number, settings])
            return Message({"environment": os.environ.get("FOR_WORKER")}, [bytes(reversed(b)) for b in request.buffers])
        if what == "allocate":
            try:
                bytearray(2**33)
            except MemoryError:
                return Message("no memory")
        if what == "sleep":
            emit("sleeping")
            time.sleep(60)
        if what == "raise":
            raise RuntimeError("a fault")
        os._exit(int(what))
    return handle
"""


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., WorkerProcess]]:
    """Starts workers of `MODULE`; `__main__` is a script that must not run again."""
    (tmp_path / "worker_module.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)

    def handler(settings: Any) -> Handler:
        raise NotImplementedError

    handler.__module__, handler.__qualname__ = "worker_module", "make"
    started: list[WorkerProcess] = []

    def start(**options: Any) -> WorkerProcess:
        started.append(WorkerProcess(handler, {"a": 1}, **options))
        return started[-1]

    yield start
    for worker in started:
        worker.kill()
        worker.close()


def test_replies_events_and_buffers(make: Callable[..., WorkerProcess]) -> None:
    worker = make(environment={"FOR_WORKER": "é"}, memory_bytes=2**32, ignored_signals=["SIGTERM", "NO_SUCH_SIGNAL"])
    events: list[Any] = []
    large = os.urandom(300_000)
    assert worker.wait_ready()
    os.kill(worker._process.pid, signal.SIGTERM)  # ignored
    for buffers in ([large, b"", b"ab"], []):
        reply = worker.request("echo", buffers, on_event=events.append)
        assert reply == Message({"environment": "é"}, [bytes(reversed(buffer)) for buffer in buffers])
    assert events == [[number, {"a": 1}] for number in range(3)] * 2
    if sys.platform == "linux":
        assert worker.request("allocate") == Message("no memory", [])
    assert worker.close() == 0


def test_end_of_the_process_is_a_value(make: Callable[..., WorkerProcess]) -> None:
    assert str(make().request("7")) == "exited with code 7"
    assert make().request("raise") == Exited(1)
    worker = make()
    assert worker.wait_ready()
    worker.kill()
    assert str(worker.request("echo", [bytes(10**6)])) == "was killed by SIGKILL"
    assert worker.request("echo") == Exited(-signal.SIGKILL)
    with pytest.raises(ZeroDivisionError):  # an error of the caller's function is not one of the process
        make().request("echo", on_event=lambda event: 1 / 0)


def test_interrupt_lets_the_process_stop_by_itself(make: Callable[..., WorkerProcess]) -> None:
    worker = make(own_session=True)
    with ThreadPoolExecutor(1) as pool:
        sleeping = threading.Event()
        reply = pool.submit(worker.request, "sleep", on_event=lambda event: sleeping.set())
        assert sleeping.wait(30)
        worker._process.send_signal(signal.SIGINT)
        assert reply.result(30) == Exited(130)
    worker = make(ignored_signals=["SIGINT"])
    assert worker.wait_ready()
    os.kill(worker._process.pid, signal.SIGSTOP)
    worker.interrupt(0.1)
    assert worker.close() == -signal.SIGKILL


def test_time_limit_kills_the_process(make: Callable[..., WorkerProcess]) -> None:
    async def run() -> None:
        worker = make()
        with ThreadPoolExecutor(1) as threads:
            assert await worker.in_thread(threads, 60, worker.wait_ready)
            reply = await worker.in_thread(threads, 60, worker.request, "echo", [b"ab"])
            assert isinstance(reply, Message)
            with pytest.raises(TimeoutError):
                await worker.in_thread(threads, 0.2, worker.request, "sleep")
            assert worker.request("echo") == Exited(-signal.SIGKILL)

    asyncio.run(run())


def test_python_that_prints_at_startup_or_cannot_start(
    make: Callable[..., WorkerProcess], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("regraft.worker_process._PROGRAM", "print('hello', flush=True); input()")
    worker = make()
    assert not worker.wait_ready()
    assert isinstance(worker.request("echo"), Exited)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "no python"))
    with pytest.raises(OSError, match="no python"):
        make()
    monkeypatch.setattr(sys, "executable", "")
    with pytest.raises(OSError, match="frozen"):
        make()
