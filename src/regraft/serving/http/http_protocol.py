"""Time limits and size limits of connections that uvicorn does not have.

Slow headers, slow bodies, clients that do not read their answer, large headers and long pipelines end the connection,
so a slow client costs a connection and nothing else. docs/decisions/http-timeouts.md says why this subclasses uvicorn's
protocol.
"""

from __future__ import annotations

import asyncio
import re
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from regraft.serving.http.problem_details import MEDIA_TYPE, Problem
from regraft.serving.service import Service

#: Seconds beyond the limit for bodies, so that the application can answer before the connection is cut.
_GRACE = 5.0
#: Requests of a connection that may wait for an earlier answer; each uses memory.
_MAX_PIPELINED = 16
#: Offer of another protocol, such as Java's clients send. The server ignores it; the parser would ignore the body.
_UPGRADE = re.compile(rb"(?<=\r\n)upgrade:", re.IGNORECASE)
#: What the connection waits for.
_REQUEST, _HEADERS, _BODY = "request", "headers", "body"


class TimedConnection(HttpToolsProtocol):
    """A connection with a time limit for each phase of a request: wait for it, receive headers, receive the body.

    A new connection starts with the headers, so one that sends nothing is closed.
    """

    def __init__(self, *args: Any, service: Service, **options: Any) -> None:
        super().__init__(*args, **options)
        self._service, self._limits = service, service.limits
        self._phase = _REQUEST
        self._is_refused = False
        self._header_bytes = 0
        self._read_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for headers, or refuse the connection if there are too many."""
        super().connection_made(transport)
        self._service.metrics.connections.set(len(self.connections))
        # Each byte that the client does not take then starts the timer of `pause_writing`.
        transport.set_write_buffer_limits(high=0)
        if len(self.connections) > self._limits.connections:
            self._refuse(503, "The server has reached its limit of connections. Try again later.", retry=True)
        else:
            self._enter(_HEADERS, self._limits.header_seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timers."""
        self._stop_read_timer()
        if self._write_timer is not None:
            self._write_timer.cancel()
        super().connection_lost(exc)
        self._service.metrics.connections.set(len(self.connections))

    def data_received(self, data: bytes) -> None:
        """Count the bytes of headers and pass the data on."""
        if self._is_refused:
            return
        if self._phase is _REQUEST:
            self._enter(_HEADERS, self._limits.header_seconds)
        if self._phase is _HEADERS:
            self._header_bytes += len(data)
            head, end, rest = data.partition(b"\r\n\r\n")
            data = _UPGRADE.sub(b"Ignored:", head) + end + rest
        super().data_received(data)
        if self._phase is _HEADERS and self._header_bytes > self._limits.header_bytes and not self._is_refused:
            self._refuse_headers()

    def on_message_begin(self) -> None:
        """Start the time of a request that begins in the same data as the end of another."""
        if self._phase is _REQUEST:
            self._enter(_HEADERS, self._limits.header_seconds)
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Start the time of the body, or refuse large headers and long pipelines."""
        if self._is_refused:
            return
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if len(self.pipeline) >= _MAX_PIPELINED:
            self._refuse(400, f"Received more than {_MAX_PIPELINED} requests before the first was answered.")
        elif size > self._limits.header_bytes:
            self._refuse_headers()
        elif self.parser.should_upgrade():  # in a part of the data in which the offer was not found
            self._refuse(400, "Received an offer of another protocol. Send no header Upgrade.")
        else:
            self._enter(_BODY, self._limits.body_seconds + _GRACE)
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Pass a part of the body on."""
        if not self._is_refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """Stop the time: from here on, the application's deadline applies."""
        if self._is_refused:
            return
        self._stop_read_timer()
        self._phase, self._header_bytes = _REQUEST, 0
        super().on_message_complete()

    def pause_writing(self) -> None:
        """Start the time in which the client must take a part of its answer."""
        super().pause_writing()
        if self._write_timer is None:
            self._write_timer = self.loop.call_later(self._limits.write_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """Stop that time."""
        super().resume_writing()
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def send_400_response(self, msg: str) -> None:
        """Answer data that is not HTTP with a problem, too."""
        self._refuse(400, f"{msg} Expected HTTP/1.1.")

    def _enter(self, phase: str, seconds: float) -> None:
        self._stop_read_timer()
        self._phase = phase
        self._read_timer = self.loop.call_later(seconds, self._on_read_timeout)

    def _stop_read_timer(self) -> None:
        if self._read_timer is not None:
            self._read_timer.cancel()
            self._read_timer = None

    def _on_read_timeout(self) -> None:
        if self._phase is _BODY:
            self.transport.abort()
        elif self._header_bytes:
            self._refuse(408, f"The headers did not arrive within {self._limits.header_seconds:g} s.")
        else:
            self.transport.close()

    def _refuse_headers(self) -> None:
        self._refuse(431, f"The headers exceed the limit of {self._limits.header_bytes:,} bytes.")

    def _refuse(self, status: int, detail: str, *, retry: bool = False) -> None:
        """Close the connection, after a problem response if no other response is under way."""
        self._is_refused = True
        self._stop_read_timer()
        if self.transport.is_closing():
            return
        problem = Problem(status, detail)
        self._service.metrics.problems.labels(problem.name).inc()
        body = problem.body("", "")
        start = f"HTTP/1.1 {status} {problem.name}\r\ncontent-type: {MEDIA_TYPE}\r\ncontent-length: {len(body)}\r\n"
        start += ("retry-after: 1\r\n" if retry else "") + "connection: close\r\n\r\n"
        cycle = self.cycle
        is_busy = cycle is not None and not cycle.response_complete
        if not self.pipeline and not (is_busy and cycle.response_started):
            if is_busy:  # the application must not answer any more
                cycle.disconnected = True
                cycle.message_event.set()
            self.transport.write(start.encode() + body)
        self.transport.close()
