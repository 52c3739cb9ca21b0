"""Errors as HTTP answers: RFC 9457 problem bodies.

Enters: a `Problem`, or what the framework raises. Leaves: a response of `application/problem+json` whose members are
`type`, `title`, `status`, `detail` and `request_id`; under `/v2` also the protocol's `error`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

MEDIA_TYPE = "application/problem+json"
#: Characters of a problem's detail, which may quote what was received.
_LONGEST = 500


class Problem(Exception):
    """A request that gets an error.

    Attributes:
        status: HTTP status.
        detail: What was received, what was expected, what to do.
        headers: Of the response.
        members: Further members of the body.
        name: Of the cause, for the metrics; one of few.
    """

    def __init__(
        self, status: int, detail: str, *, name: str = "", headers: Mapping[str, str] | None = None, **members: Any
    ) -> None:
        """Keep the parts."""
        super().__init__(detail)
        self.status, self.detail = status, printable(detail)
        self.name = name or HTTPStatus(status).phrase.lower().replace(" ", "-")
        self.headers, self.members = dict(headers or {}), members

    def body(self, request_id: str, path: str) -> bytes:
        """The JSON document.

        Args:
            request_id: Of the request.
            path: Of the request; under `/v2` the Open Inference Protocol asks for a member `error`.
        """
        value: dict[str, Any] = {
            "type": "about:blank",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
            "request_id": request_id,
            **self.members,
        }
        if path == "/v2" or path.startswith("/v2/"):
            value["error"] = self.detail
        return json.dumps(value).encode()


def respond(request: Request, problem: Problem) -> Response:
    """The problem as a response, its name kept for the metrics."""
    state = request.scope.setdefault("state", {})
    state["problem"] = problem.name
    body = problem.body(state.get("request_id", ""), request.url.path)
    return Response(body, problem.status, problem.headers, MEDIA_TYPE)


async def on_problem(request: Request, error: Exception) -> Response:
    """Of `Problem`."""
    assert isinstance(error, Problem)
    return respond(request, error)


async def on_http_exception(request: Request, error: Exception) -> Response:
    """Of the framework's own: no such path, or a method that it does not have."""
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        detail = "There is nothing at this address. GET /docs lists all addresses."
    elif error.status_code == 405:
        allowed = (error.headers or {}).get("Allow") or (error.headers or {}).get("allow", "another")
        detail = f"{request.method} was received; expected {allowed}."
    else:
        detail = str(error.detail)
    return respond(request, Problem(error.status_code, detail, headers=error.headers))


async def on_invalid(request: Request, error: Exception) -> Response:
    """Of parameters that are not what the document says; what was received is not repeated."""
    assert isinstance(error, RequestValidationError)
    found = [
        {"where": printable(".".join(str(part) for part in fault["loc"])), "what": printable(str(fault["msg"]))}
        for fault in error.errors()[:10]
    ]
    detail = "; ".join(f"{fault['where']}: {fault['what']}" for fault in found) + ". GET /docs says what is expected."
    return respond(request, Problem(422, detail, errors=found))


def printable(text: str) -> str:
    """One line of at most 500 characters, without control characters."""
    line = "".join(c if c.isprintable() else " " for c in text)
    return line if len(line) <= _LONGEST else line[: _LONGEST - 1] + "…"
