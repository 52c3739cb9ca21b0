"""Run the server process: its socket, its signals, startup and shutdown."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any

import uvicorn

from regraft.serving.http.app import create_app
from regraft.serving.http.http_protocol import TimedConnection
from regraft.serving.listener import accept_waiting, ignore_new_clients
from regraft.serving.service import Service

#: Seconds that connections which have begun may take until they stand, before the port is closed.
_HANDSHAKE_SECONDS = 0.1
#: Seconds from the closing of the port to the closing of connections without a request.
_LAST_REQUEST_SECONDS = 0.25
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_log = logging.getLogger("regraft.serving")


class DrainingServer(uvicorn.Server):
    """Responds 503 once `stop` is set, closes its port shortly after, and ends when all requests are answered.

    The first signal sets `stop`, and the second ends the server at once. `has_lost_requests` says whether it ended with
    accepted requests unanswered. Headers of proxies (`Forwarded`, `X-Forwarded-*`) have no effect: no answer depends on
    the client's address or on the server's own name.
    """

    def __init__(
        self, service: Service, token: str | None = None, *, root_path: str = "", allow_origins: Sequence[str] = (),
        stop: threading.Event | None = None,
    ) -> None:  # fmt: skip
        limits, protocol = service.limits, functools.partial(TimedConnection, service=service)
        options: dict[str, Any] = {"http": protocol, "ws": "none", "lifespan": "off", "loop": "asyncio"}
        options |= {"log_config": None, "access_log": False, "server_header": False, "proxy_headers": False}
        idle, drain = (max(1, round(seconds)) for seconds in (limits.idle_seconds, limits.drain_seconds))
        options |= {"timeout_keep_alive": idle, "timeout_graceful_shutdown": drain}
        app = create_app(service, token=token, root_path=root_path, allow_origins=allow_origins)
        super().__init__(uvicorn.Config(app, **options))
        self._service = service
        self.stop = stop or threading.Event()
        self.has_lost_requests = False

    async def run_service(self, listener: socket.socket, on_ready: Callable[[], None]) -> None:
        """Start the service, serve, and stop the service."""
        starting = asyncio.create_task(self._start(on_ready))
        try:
            await self.serve(sockets=[listener])
            self.has_lost_requests = self.force_exit or bool(self.server_state.tasks)
            starting.cancel()  # does nothing, unless the signal came while models were loaded
            with contextlib.suppress(asyncio.CancelledError):
                await starting
        finally:
            await self._service.stop()
            _log.info("ended", extra={"event": "ended", "lost": self.has_lost_requests})

    async def _start(self, on_ready: Callable[[], None]) -> None:
        try:
            await self._service.start()
        except BaseException:
            self.should_exit = True
            raise
        if self._service.state == "ready":
            on_ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close the port without a reset for clients that have connected, then end as uvicorn does."""
        for listener in sockets or ():
            ignore_new_clients(listener)
        await asyncio.sleep(_HANDSHAKE_SECONDS)
        waiting = [connection for listener in sockets or () for connection in accept_waiting(listener)]
        for server in self.servers:
            server.close()
        for connection in waiting:
            await asyncio.get_running_loop().connect_accepted_socket(self._make_protocol, connection)
        await asyncio.sleep(_LAST_REQUEST_SECONDS)
        await super().shutdown(sockets)

    def _make_protocol(self) -> asyncio.Protocol:
        protocol: asyncio.Protocol = self.config.http_protocol_class(  # type: ignore[call-arg]  # as uvicorn itself
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        return protocol

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle signals, unlike uvicorn without raising them again at the end, so the exit code stays 0."""
        if threading.current_thread() is not threading.main_thread():  # only the main thread can
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in _SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Drain at the first signal, and end at once at the second."""
        if self.stop.is_set():
            self.should_exit = self.force_exit = True
        self.stop.set()

    async def on_tick(self, counter: int) -> bool:
        """Drain once `stop` is set; uvicorn calls this ten times a second."""
        if self.stop.is_set() and self._service.state != "draining":
            self._service.drain()
            _log.info("draining", extra={"event": "draining"})
            delay = self._service.limits.drain_delay_seconds
            asyncio.get_running_loop().call_later(delay, setattr, self, "should_exit", True)
        return await super().on_tick(counter)
