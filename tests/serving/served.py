"""Servers to test: in a thread of this process, and as the process of the command `regraft serve`."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from regraft.serving.json_logging import JsonLines
from regraft.serving.limits import Limits
from regraft.serving.listener import bind
from regraft.serving.recorder import Recording
from regraft.serving.serve import ModelSource, load_models
from regraft.serving.server import DrainingServer
from regraft.serving.service import Service


class Server:
    """A server that is ready."""

    def __init__(self, address: str, log: list[str]) -> None:
        self.address, self.log = address, log
        self.client = httpx.Client(base_url=address, timeout=30)

    @property
    def host_and_port(self) -> tuple[str, int]:
        return "127.0.0.1", int(self.address.rpartition(":")[2])


class _ListHandler(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(JsonLines())
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


@contextmanager
def in_thread(
    *models: str | Path,
    token: str | None = None,
    limits: Limits,
    proxy: dict[str, Any] | None = None,
    recording: Recording | None = None,
    **options: Any,
) -> Iterator[Server]:
    """Serve models in a thread of this process."""
    sources = [ModelSource.parse(model) for model in models]
    options = {"engine": "same", "min_accuracy": None, "ood_rate": None, "trust": False, **options}
    service = Service([s.name for s in sources], partial(load_models, sources, **options), limits, 2, recording)
    server = DrainingServer(service, token, **(proxy or {}))
    logger, handler, ready = logging.getLogger("regraft.serving"), _ListHandler(), threading.Event()
    logger.addHandler(handler)
    logger.setLevel("INFO")
    with bind("127.0.0.1", 0) as listener:
        thread = threading.Thread(target=lambda: asyncio.run(server.run_service(listener, ready.set)))
        thread.start()
        try:
            assert ready.wait(60)
            started = Server(f"http://127.0.0.1:{listener.getsockname()[1]}", handler.lines)
            with started.client:
                yield started
        finally:
            server.handle_exit(signal.SIGTERM, None)
            thread.join()
            logger.removeHandler(handler)


class ServerProcess(Server):
    """A server of the command `regraft serve`."""

    def __init__(self, address: str, log: list[str], process: subprocess.Popen[str]) -> None:
        super().__init__(address, log)
        self.process = process

    def end(self, seconds: float = 60) -> int:
        """Send SIGTERM and wait; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)


@contextmanager
def in_process(*arguments: object, **environment: str) -> Iterator[ServerProcess]:
    """Run `regraft serve` with these arguments, at a free port."""
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
        address = re.search(r"Listening at (\S+);", "".join(log))
        assert address, "".join(log)
        server = ServerProcess(address[1], log, process)
        assert process.poll() is None, "".join(log)
        with server.client:
            yield server
    finally:
        process.kill()
        process.wait()
        reader.join()
        assert process.stderr is not None
        process.stderr.close()
