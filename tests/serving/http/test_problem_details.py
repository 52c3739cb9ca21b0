"""Errors as problem details; what was sent is quoted only where it is safe."""

from __future__ import annotations

import asyncio
import json

import pytest
from starlette.exceptions import HTTPException
from starlette.requests import Request

from regraft.serving.http.problem_details import Problem, on_http_exception, on_problem, printable


def request(path: str = "/predict", method: str = "POST") -> Request:
    scope = {"type": "http", "path": path, "method": method, "headers": [], "query_string": b"", "server": ("h", 80)}
    return Request({**scope, "scheme": "http", "state": {"request_id": "abc"}})


def test_a_problem_has_its_members_and_headers() -> None:
    problem = Problem(503, "The queue is full.", name="queue-full", headers={"Retry-After": "1"}, images=[1])
    asked = request()
    response = asyncio.run(on_problem(asked, problem))
    assert json.loads(bytes(response.body)) == {
        "type": "about:blank",
        "title": "Service Unavailable",
        "status": 503,
        "detail": "The queue is full.",
        "request_id": "abc",
        "images": [1],
    }
    assert (response.status_code, response.headers["retry-after"]) == (503, "1")
    assert response.headers["content-type"] == "application/problem+json"
    assert asked.scope["state"]["problem"] == "queue-full"
    assert Problem(404, "").name == "not-found"


@pytest.mark.parametrize(("path", "has_error"), [("/v2", True), ("/v2/models/x/infer", True), ("/v20", False)])
def test_the_inference_protocol_has_an_error_too(path: str, has_error: bool) -> None:
    value = json.loads(Problem(400, "why").body("abc", path))
    assert ("error" in value) == has_error


def test_unknown_addresses_and_methods_give_advice() -> None:
    answer = asyncio.run(on_http_exception(request("/nowhere"), HTTPException(404)))
    assert "GET /docs lists all addresses" in json.loads(bytes(answer.body))["detail"]
    answer = asyncio.run(on_http_exception(request(), HTTPException(405, headers={"allow": "GET"})))
    assert json.loads(bytes(answer.body))["detail"] == "Received POST; expected GET, HEAD."


def test_details_are_one_short_line() -> None:
    assert printable("a\r\nSet-Cookie: x\x00\x1b[31mé") == "a  Set-Cookie: x  [31mé"
    assert len(printable("x" * 501)) == len(printable("x" * 500)) == 500
    assert printable("x" * 501).endswith("…")
