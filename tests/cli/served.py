"""The command `regraft serve` as a process of its own, since it ends by a signal."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import httpx


class Server:
    """A `regraft serve` that is ready."""

    def __init__(self, process: subprocess.Popen[str], address: str, log: list[str]) -> None:
        self.process, self.address, self.log = process, address, log
        self.client = httpx.Client(base_url=address, timeout=30)

    @property
    def place(self) -> tuple[str, int]:
        """Host and port, for sockets."""
        return "127.0.0.1", int(self.address.rpartition(":")[2])

    def end(self) -> int:
        """Send SIGTERM and wait; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


@contextmanager
def started(*arguments: object, **environment: str) -> Iterator[Server]:
    """Start one with these arguments, at any port."""
    process = subprocess.Popen(
        [sys.executable, "-m", "regraft.cli", "serve", *map(str, arguments), "--port", "0"],
        stderr=subprocess.PIPE, text=True, env={**os.environ, **environment},
    )  # fmt: skip
    log: list[str] = []
    ready = threading.Event()

    def read() -> None:
        assert process.stderr is not None
        for line in process.stderr:
            log.append(line)
            if line.startswith("Ready."):
                ready.set()
        ready.set()

    reader = threading.Thread(target=read)
    reader.start()
    try:
        assert ready.wait(120)
        found = re.search(r"Listening at (\S+);", "".join(log))
        assert found, "".join(log)
        server = Server(process, found[1], log)
        assert process.poll() is None, "".join(log)
        with server.client:
            yield server
    finally:
        process.kill()
        process.wait()
        reader.join()
        assert process.stderr is not None
        process.stderr.close()
