"""The process that serves: its socket, its signals, its beginning and its end.

Enters: a `Service`. Leaves: an exit code, after a signal to end and the answers to all that was accepted before.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Callable, Iterator
from types import FrameType

import uvicorn

from regraft.errors import UsageError
from regraft.serving.app import create_app
from regraft.serving.connections import timed_connections
from regraft.serving.logs import set_up_logging
from regraft.serving.service import Service

#: Seconds between the closing of the port and that of connections without a request.
_LAST_WORDS = 0.25
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_log = logging.getLogger("regraft.serving")


def bind(host: str, port: int) -> socket.socket:
    """A socket that listens, so that nothing is loaded where none can be had.

    Args:
        host: A name or address of this machine.
        port: 0: any that is free.

    Raises:
        UsageError: There is no such address here, or the port is taken.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, protocol)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(address)
        except BaseException:
            bound.close()
            raise
    except OSError as error:
        raise UsageError(
            f"Cannot listen at {host}, port {port}: {error.strerror or error}. Choose another --port; 0: any."
        ) from error
    return bound


def serve(
    service: Service,
    listening: socket.socket,
    *,
    token: str | None = None,
    log_level: str = "info",
    on_ready: Callable[[], None] = lambda: None,
) -> int:
    """Serve until a signal says to end.

    Args:
        service: Started here.
        listening: Of `bind`.
        token: That who asks must send.
        log_level: debug, info, warning or error.
        on_ready: Called when requests are accepted.

    Returns:
        0 where all that was accepted was answered, else 1.

    Raises:
        RegraftError: The models could not be loaded.
    """
    set_up_logging(log_level)
    limits = service.limits
    config = uvicorn.Config(
        create_app(service, token=token),
        http=timed_connections(service),
        ws="none",
        lifespan="off",
        loop="asyncio",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=max(1, round(limits.idle_seconds)),
        timeout_graceful_shutdown=max(1, round(limits.drain_seconds)),
    )
    server = _DrainingServer(config, service)
    asyncio.run(server.run_service(listening, on_ready))
    return 1 if server.lost else 0


class _DrainingServer(uvicorn.Server):
    """Answers 503 from the signal on, closes its port a little later, and ends when all is answered."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service
        self._loop: asyncio.AbstractEventLoop | None = None
        self.lost = False

    async def run_service(self, listening: socket.socket, on_ready: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        starting = asyncio.create_task(self._start(on_ready))
        try:
            await self.serve(sockets=[listening])
            self.lost = self.force_exit or bool(self.server_state.tasks)
            if not starting.done():  # the signal came while models were loaded
                starting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await starting
        finally:
            await self._service.stop()
            _log.info("ended", extra={"event": "ended", "lost": self.lost})

    async def _start(self, on_ready: Callable[[], None]) -> None:
        try:
            await self._service.start()
        except BaseException:
            self.should_exit = True
            raise
        if self._service.state == "ready":
            on_ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close the port so that who has come to it still gets an answer, then end as uvicorn does."""
        for listening in sockets or ():
            await self._let_in(listening)
        for server in self.servers:
            server.close()
        await asyncio.sleep(_LAST_WORDS)  # for those whose request is on its way
        await super().shutdown(sockets)

    async def _let_in(self, listening: socket.socket) -> None:
        """Accept the connections that wait before the port: closing it would reset them."""
        loop = asyncio.get_running_loop()
        loop.remove_reader(listening.fileno())
        with contextlib.suppress(BlockingIOError):
            while True:
                connection, _ = listening.accept()
                connection.setblocking(False)
                await loop.connect_accepted_socket(self._connection, connection)

    def _connection(self) -> asyncio.Protocol:
        made: asyncio.Protocol = self.config.http_protocol_class(  # type: ignore[call-arg]  # as uvicorn itself
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        return made

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Uvicorn's would raise the signal again at the end, and the exit code would be another than 0."""
        before = {number: signal.signal(number, self.handle_exit) for number in _SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal drains, the second ends at once."""
        assert self._loop is not None
        if self._service.state == "draining":
            self.should_exit = self.force_exit = True
            return
        self._service.drain()
        self._loop.call_soon_threadsafe(self._close_later)

    def _close_later(self) -> None:
        _log.info("draining", extra={"event": "draining"})
        assert self._loop is not None
        self._loop.call_later(self._service.limits.drain_delay_seconds, setattr, self, "should_exit", True)
