"""Request identifiers, the token, security headers, prefixes of proxies, the request log and metrics, for all paths."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import logging
import re
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from regraft.serving.http.problem_details import Problem, respond
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
#: Methods that metrics and the log name; a client may send any word.
_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"))
_IDENTIFIER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,63}")
#: Causes of rejections that are the server's: it had no capacity or no time. All others are the client's.
_REJECTIONS = frozenset(("queue-full", "buffer-full", "deadline", "starting", "draining", "request-timeout"))
#: The header Host: a name or an address, with or without a port.
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?")
_log = logging.getLogger("regraft.serving")


class Middleware:
    """The outermost part of the application; with a token, only the paths in `public` work without it."""

    def __init__(
        self, app: ASGIApp, service: Service, token: str | None, public: frozenset[str], root_path: str = "",
        allow_origins: Sequence[str] = (),
    ) -> None:  # fmt: skip
        """Store the arguments, and only the hash of the token."""
        self.app, self.service, self.public, self._root_path = app, service, public, root_path
        self._digest = None if token is None else _digest(token.encode())
        self._origins, self._hosts = frozenset(allow_origins), {urlsplit(origin).hostname for origin in allow_origins}
        self._inner: ASGIApp = self._check_site
        if allow_origins:  # before the token is checked, since browsers ask without it
            self._inner = CORSMiddleware(
                self._check_site, allow_origins, ("GET", "HEAD", "POST"), ("Authorization", "X-Request-ID"),
                expose_headers=("Retry-After", "X-Request-ID"),
            )  # fmt: skip

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, method = time.monotonic(), scope["method"]
        # HEAD is GET whose body the protocol leaves out.
        scope = {**scope, "path": self._own_path(scope["path"]), "method": "GET" if method == "HEAD" else method}
        state: dict[str, Any] = scope.setdefault("state", {})
        given = Headers(scope=scope).get("x-request-id")  # repeated only if it is safe
        state["request_id"] = request_id = given if given and _IDENTIFIER.fullmatch(given) else uuid.uuid4().hex
        status = 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                response_headers = MutableHeaders(scope=message)
                response_headers["X-Request-ID"] = request_id
                response_headers.update(_HEADERS)
                if self.service.state == "draining":
                    response_headers["Connection"] = "close"
                response_headers.setdefault("Cache-Control", "no-store")
            await send(message)

        try:
            await self._inner(scope, receive, send_with_headers)
        except Exception:
            _log.exception("request failed", extra={"event": "request-failed", "request_id": request_id})
            if status:
                raise  # a part of the response is sent: uvicorn closes the connection
            problem = Problem(500, "The server failed. Its log has the reason under this request's identifier.")
            await respond(Request(scope), problem)(scope, receive, send_with_headers)
        finally:
            self._record(scope, method, status, time.monotonic() - started)

    def _own_path(self, path: str) -> str:
        """The path without the prefix of a proxy, and without a second slash that removing it may leave."""
        path = "/" + path.lstrip("/")
        if self._root_path and f"{path}/".startswith(f"{self._root_path}/"):
            path = "/" + path.removeprefix(self._root_path).lstrip("/")
        return path

    async def _check_site(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse what a page of another site makes a browser ask; it would count as an answer in use, or read one."""
        headers, problem = Headers(scope=scope), None
        if scope["path"] not in self.public and "*" not in self._origins:
            if headers.get("sec-fetch-site") == "cross-site" and headers.get("origin") not in self._origins:
                text = "A page of another site asks. Start the server with --allow-origin and the origin of its pages."
                problem = Problem(403, text, name="cross-site")
            elif self._digest is None and not self._is_own_host(scope, headers.get("host", "")):
                text = (
                    "The server listens on this machine alone, and the header Host has another name. Use localhost or "
                    "a token, or start the server with --allow-origin and the origin that a proxy publishes."
                )
                problem = Problem(403, text, name="host")
        if problem is None:
            await self._check_token(scope, receive, send)
        else:
            await respond(Request(scope), problem)(scope, receive, send)

    def _is_own_host(self, scope: Scope, given: str) -> bool:
        """Whether a name may be this machine's, if it is asked at a loopback address.

        A page whose name leads to 127.0.0.1 (DNS rebinding) is to its browser of the same site as the server.
        """
        if not _is_loopback((scope.get("server") or ("",))[0]) or not given:
            return True
        name = (urlsplit(f"//{given}").hostname or "") if _HOST.fullmatch(given) else ""
        return name == "localhost" or name.endswith(".localhost") or _is_address(name) or name in self._hosts

    async def _check_token(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] in self.public or self._is_allowed(Headers(scope=scope)):
            await self.app(scope, receive, send)
            return
        text = "This address needs the header `Authorization: Bearer TOKEN` with the server's token."
        problem = Problem(401, text, headers={"WWW-Authenticate": 'Bearer realm="regraft"'})
        await respond(Request(scope), problem)(scope, receive, send)

    def _is_allowed(self, headers: Headers) -> bool:
        if self._digest is None:
            return True
        scheme, _, given = headers.get("authorization", "").partition(" ")
        # Hashes have equal lengths, so the time of the comparison does not depend on the token.
        is_equal = hmac.compare_digest(_digest(given.strip().encode("utf-8", "surrogateescape")), self._digest)
        return is_equal and scheme.lower() == "bearer"

    def _record(self, scope: Scope, method: str, status: int, seconds: float) -> None:
        metrics, state = self.service.metrics, scope["state"]
        route = getattr(scope.get("route"), "path", "other")
        method = method if method in _METHODS else "other"
        metrics.requests.labels(route, method, str(status)).inc()
        metrics.seconds.labels(route).observe(seconds)
        extra = {"event": "request", "request_id": state["request_id"], "method": method, "route": route,
                 "status": status, "milliseconds": round(1000 * seconds, 1)}  # fmt: skip
        if cause := state.get("problem"):
            extra["cause"] = cause
            metrics.problems.labels(cause).inc()
            if cause in _REJECTIONS:
                metrics.rejections.labels(cause).inc()
        if "images" in state:
            extra["images"] = state["images"]
        _log.info("request", extra=extra)


def _is_address(host: str) -> bool:
    with suppress(ValueError):
        return bool(ipaddress.ip_address(host))
    return False


def _is_loopback(host: str) -> bool:
    return _is_address(host) and ipaddress.ip_address(host).is_loopback


def _digest(value: bytes) -> bytes:
    return hashlib.sha256(value).digest()
