"""Problem details: errors as JSON responses of type `application/problem+json` (RFC 9457).

Their members are `type`, `title`, `status`, `detail`, `request_id`, and `error` under `/v2`, as that protocol asks.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi.exceptions import RequestValidationError
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

MEDIA_TYPE = "application/problem+json"
#: Largest number of characters of a problem's detail, which may quote what was received.
_MAX_DETAIL = 500


class Problem(Exception):
    """An error that a request is answered with; `name` is its cause for the metrics, one of a small set."""

    def __init__(
        self, status: int, detail: str, *, name: str = "", headers: Mapping[str, str] | None = None, **members: Any
    ) -> None:
        super().__init__(detail)
        self.status, self.detail = status, printable(detail)
        self.name = name or HTTPStatus(status).phrase.lower().replace(" ", "-")
        self.headers, self.members = dict(headers or {}), members

    def body(self, request_id: str, path: str) -> bytes:
        """The JSON document for the request with this identifier and path."""
        about = {"type": "about:blank", "title": HTTPStatus(self.status).phrase, "status": self.status}
        value = {**about, "detail": self.detail, "request_id": request_id, **self.members}
        if path == "/v2" or path.startswith("/v2/"):
            value["error"] = self.detail
        return json.dumps(value).encode()


def respond(request: Request, problem: Problem) -> Response:
    """The problem as a response; its name is kept for the metrics."""
    state = request.scope.setdefault("state", {})
    state["problem"] = problem.name
    body = problem.body(state.get("request_id", ""), request.url.path)
    return Response(body, problem.status, problem.headers, MEDIA_TYPE)


async def on_problem(request: Request, error: Exception) -> Response:
    """Answer with a `Problem`."""
    assert isinstance(error, Problem)
    return respond(request, error)


async def on_http_exception(request: Request, error: Exception) -> Response:
    """Answer an unknown path or method."""
    assert isinstance(error, HTTPException)
    headers = error.headers
    if error.status_code == 404:
        detail = "There is nothing at this address. GET /docs lists all addresses."
    elif error.status_code == 405:
        allowed = Headers(headers).get("allow", "another method").replace("GET", "GET, HEAD")
        headers, detail = {"Allow": allowed}, f"Received {request.method}; expected {allowed}."
    else:
        detail = str(error.detail)
    return respond(request, Problem(error.status_code, detail, headers=headers))


async def on_invalid(request: Request, error: Exception) -> Response:
    """Answer invalid parameters, without repeating their values."""
    assert isinstance(error, RequestValidationError)
    errors = [
        {"where": printable(".".join(str(part) for part in one["loc"])), "what": printable(str(one["msg"]))}
        for one in error.errors()[:10]
    ]
    detail = "; ".join(f"{one['where']}: {one['what']}" for one in errors) + ". GET /docs says what is expected."
    return respond(request, Problem(422, detail, errors=errors))


def printable(text: str) -> str:
    """One line of at most 500 characters, without control characters."""
    line = "".join(c if c.isprintable() else " " for c in text)
    return line if len(line) <= _MAX_DETAIL else line[: _MAX_DETAIL - 1] + "…"
