"""Connections with time limits that uvicorn does not have.

Enters: bytes of clients. Leaves: requests whose headers came within a time and a size, and whose bodies go on coming;
other connections are closed, so that slow clients cost a connection and nothing else.
"""

from __future__ import annotations

import asyncio
import functools
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from regraft.serving.problems import MEDIA_TYPE, Problem
from regraft.serving.service import Service

#: Seconds beyond the body's, so that the application answers before the connection is cut.
_GRACE = 5.0
#: Requests of a connection that may wait for the answer to one before; each costs memory.
_PIPELINED = 16
_IDLE, _HEAD, _BODY = "idle", "head", "body"


class TimedConnection(HttpToolsProtocol):
    """A connection whose parts of a request have each their time."""

    def __init__(self, *args: Any, service: Service, **options: Any) -> None:
        """Nothing is received yet."""
        super().__init__(*args, **options)
        self._service, self._limits = service, service.limits
        self._phase = _IDLE
        self._refused = False
        self._head_bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Refuse where there are too many already; begin to wait for a request."""
        super().connection_made(transport)
        self._service.metrics.connections.set(len(self.connections))
        # So that every byte that a client does not take starts the clock of `pause_writing`.
        transport.set_write_buffer_limits(high=0)
        if len(self.connections) > self._limits.connections:
            self._refuse(503, "The server has as many connections as it may. Try again later.", retry=True)
            return
        self._enter(_HEAD, self._limits.header_seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clocks."""
        self._stop_timer()
        if self._write_timer is not None:
            self._write_timer.cancel()
        super().connection_lost(exc)
        self._service.metrics.connections.set(len(self.connections))

    def data_received(self, data: bytes) -> None:
        """Count the bytes of headers, and start their time with the first."""
        if self._refused:
            return
        if self._phase is _IDLE:
            self._head_bytes = 0
            self._enter(_HEAD, self._limits.header_seconds)
        if self._phase is _HEAD:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._phase is _HEAD and self._head_bytes > self._limits.header_bytes and not self._refused:
            self._refuse_headers()

    def on_message_begin(self) -> None:
        """A request begins, maybe in the same bytes as the end of another."""
        if self._phase is _IDLE:
            self._enter(_HEAD, self._limits.header_seconds)
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Refuse large headers, else begin the time of the body."""
        if self._refused:
            return
        if len(self.pipeline) >= _PIPELINED:
            self._refuse(400, f"More than {_PIPELINED} requests were sent without waiting for answers.")
            return
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if size > self._limits.header_bytes:
            self._refuse_headers()
            return
        self._enter(_BODY, self._limits.body_seconds + _GRACE)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Of a request that was not refused."""
        if not self._refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is whole: its time is the application's."""
        if self._refused:
            return
        self._stop_timer()
        self._phase, self._head_bytes = _IDLE, 0
        super().on_message_complete()

    def pause_writing(self) -> None:
        """The client does not take its answer: it has some time to go on."""
        super().pause_writing()
        if self._write_timer is None:
            self._write_timer = self.loop.call_later(self._limits.write_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """It does again."""
        super().resume_writing()
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def send_400_response(self, msg: str) -> None:
        """What is no HTTP gets a problem, too."""
        self._refuse(400, f"{msg} Expected HTTP/1.1.")

    def _enter(self, phase: str, seconds: float) -> None:
        self._stop_timer()
        self._phase = phase
        self._timer = self.loop.call_later(seconds, self._too_late)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _too_late(self) -> None:
        if self._phase is _HEAD and self._head_bytes:
            self._refuse(408, f"The headers did not arrive within {self._limits.header_seconds:g} s.")
        elif self._phase is _HEAD:
            self.transport.close()
        else:
            self.transport.abort()

    def _refuse_headers(self) -> None:
        self._refuse(431, f"The headers have more than the {self._limits.header_bytes:,} bytes that are allowed.")

    def _refuse(self, status: int, detail: str, *, retry: bool = False) -> None:
        """Answer without the application, which knows of no request yet, and close."""
        self._refused = True
        self._stop_timer()
        if self.transport.is_closing():
            return
        problem = Problem(status, detail)
        self._service.metrics.problems.labels(problem.name).inc()
        body = problem.body("", "")
        head = (
            f"HTTP/1.1 {status} {problem.name}\r\ncontent-type: {MEDIA_TYPE}\r\ncontent-length: {len(body)}\r\n"
            f"{'retry-after: 1' + chr(13) + chr(10) if retry else ''}connection: close\r\n\r\n"
        )
        cycle = self.cycle
        busy = cycle is not None and not cycle.response_complete
        # An answer to an earlier request of this connection may be under way: then nothing can be said.
        if not self.pipeline and not (busy and cycle.response_started):
            if busy:  # the application has not answered yet, and shall not
                cycle.disconnected = True
                cycle.message_event.set()
            self.transport.write(head.encode() + body)
        self.transport.close()


def timed_connections(service: Service) -> Any:
    """What uvicorn takes for its class of connections."""
    return functools.partial(TimedConnection, service=service)
