"""What stands before every address: the request's name, who may ask, and what is told of it afterwards.

Enters: each request. Leaves: the same with an identifier, or a problem; a line in the log, counts, and headers that
tell browsers to load nothing from elsewhere.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import time
import uuid
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from regraft.serving.metrics import method_label
from regraft.serving.problems import Problem, respond
from regraft.serving.service import Service

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
}
_IDENTIFIER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,63}")
#: What rejects before any work; the rest of the causes is the client's.
_REJECTIONS = frozenset(("queue-full", "buffer-full", "deadline", "starting", "draining", "request-timeout"))
_log = logging.getLogger("regraft.serving")


class Guard:
    """The outermost part of the application.

    Args:
        app: All that is behind it.
        service: Whose metrics are kept, and whose draining closes connections.
        token: Without it, only addresses in `public` answer; None: everybody may ask.
        public: Paths that need no token.
    """

    def __init__(self, app: ASGIApp, service: Service, token: str | None, public: frozenset[str]) -> None:
        """Keep them; of the token only its hash."""
        self.app, self.service, self.public = app, service, public
        self._digest = None if token is None else _digest(token.encode())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, or the application's own beginning and end."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.monotonic()
        headers = Headers(scope=scope)
        state: dict[str, Any] = scope.setdefault("state", {})
        state["request_id"] = request_id = _identifier(headers.get("x-request-id"))
        status = 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                told = MutableHeaders(scope=message)
                told["X-Request-ID"] = request_id
                for name, value in _HEADERS.items():
                    told[name] = value
                if self.service.state == "draining":
                    told["Connection"] = "close"
                told.setdefault("Cache-Control", "no-store")
            await send(message)

        try:
            if scope["path"] in self.public or self._allowed(headers):
                await self.app(scope, receive, sending)
            else:
                problem = Problem(
                    401,
                    "This address needs the header `Authorization: Bearer TOKEN` with the server's token.",
                    headers={"WWW-Authenticate": 'Bearer realm="regraft"'},
                )
                await respond(Request(scope), problem)(scope, receive, sending)
        except Exception:
            _log.exception("request failed", extra={"event": "request-failed", "request_id": request_id})
            if status:
                raise  # half an answer went out: the connection is closed
            problem = Problem(500, "The server failed; its log says why, under this request's identifier.")
            await respond(Request(scope), problem)(scope, receive, sending)
        finally:
            self._tell(scope, status, time.monotonic() - started)

    def _allowed(self, headers: Headers) -> bool:
        if self._digest is None:
            return True
        scheme, _, given = headers.get("authorization", "").partition(" ")
        # Hashes have one length, so that the time of the comparison tells nothing of the token.
        same = hmac.compare_digest(_digest(given.strip().encode("utf-8", "surrogateescape")), self._digest)
        return same and scheme.lower() == "bearer"

    def _tell(self, scope: Scope, status: int, seconds: float) -> None:
        metrics, state = self.service.metrics, scope["state"]
        route, method = getattr(scope.get("route"), "path", "other"), method_label(scope["method"])
        metrics.requests.labels(route, method, str(status)).inc()
        metrics.seconds.labels(route).observe(seconds)
        cause = state.get("problem")
        if cause:
            metrics.problems.labels(cause).inc()
            if cause in _REJECTIONS:
                metrics.rejections.labels(cause).inc()
        extra = {"event": "request", "request_id": state["request_id"], "method": method, "route": route,
                 "status": status, "milliseconds": round(1000 * seconds, 1)}  # fmt: skip
        if cause:
            extra["cause"] = cause
        if "images" in state:
            extra["images"] = state["images"]
        _log.info("request", extra=extra)


def _identifier(given: str | None) -> str:
    """The client's own where it is harmless, else a new one."""
    return given if given and _IDENTIFIER.fullmatch(given) else uuid.uuid4().hex


def _digest(value: bytes) -> bytes:
    return hashlib.sha256(value).digest()
