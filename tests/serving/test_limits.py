"""What is too much, too slow or not allowed is refused, and hurts nobody else."""

from __future__ import annotations

import base64
import contextlib
import io
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image
from served import Server


def exchange(server: Server, *parts: bytes, pause: float = 0.0) -> bytes:
    """What a client gets that sends these parts; all until the connection is closed."""
    with socket.create_connection(server.place, timeout=20) as connection:
        for part in parts:
            try:
                connection.sendall(part)
            except (BrokenPipeError, ConnectionResetError):
                break
            time.sleep(pause)
        received = b""
        try:
            while piece := connection.recv(65536):
                received += piece
        except ConnectionResetError:
            pass
        return received


def image(side: int = 20) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (side, side, 3)).astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


def test_a_token_is_asked_for(strict: Server) -> None:
    for given in (None, "Bearer wrong", "correct-horse-battery", "Basic correct-horse-battery", "Bearer"):
        request = strict.client.build_request("GET", "/models")
        del request.headers["Authorization"]
        if given is not None:
            request.headers["Authorization"] = given
        answer = strict.client.send(request)
        assert answer.status_code == 401, given
        assert answer.headers["www-authenticate"].startswith("Bearer")
        assert answer.headers["content-type"] == "application/problem+json"
    assert strict.client.get("/models").status_code == 200
    for address in ("/", "/docs", "/openapi.json", "/page/page.js", "/v2/health/live", "/v2/health/ready"):
        request = strict.client.build_request("GET", address)
        del request.headers["Authorization"]
        assert strict.client.send(request).status_code == 200
    assert "correct-horse" not in "".join(strict.log)


def test_large_bodies_are_refused_before_and_while_they_come(strict: Server) -> None:
    headers = {"Content-Type": "image/png"}
    answer = strict.client.post("/predict", content=b"x" * 100_001, headers=headers)
    assert answer.status_code == 413
    assert "100,000" in answer.json()["detail"]
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        for _ in range(2000):
            sent += 10_000
            yield b"x" * 10_000

    # The connection may be closed before the client has looked for the answer.
    with contextlib.suppress(httpx.TransportError):
        assert strict.client.post("/predict", content=endless(), headers=headers).status_code == 413
    assert sent < 20_000_000
    assert strict.client.get("/v2").status_code == 200


def test_many_images_are_refused(strict: Server) -> None:
    text = base64.b64encode(image()).decode()
    assert strict.client.post("/predict", json={"images": [text] * 2}).status_code == 200
    for options in ({"json": {"images": [text] * 3}}, {"files": [("image", ("a", image()))] * 3}):
        answer = strict.client.post("/predict", **options)  # type: ignore[arg-type]
        assert answer.status_code == 422
        assert "2 at most" in answer.json()["detail"]
    question = {"inputs": [{"name": "images", "shape": [3], "datatype": "BYTES", "data": [text] * 3}]}
    assert strict.client.post("/v2/models/squares/infer", json=question).status_code == 422


def test_images_of_many_pixels_are_refused(strict: Server) -> None:
    answer = strict.client.post("/predict", content=image(142), headers={"Content-Type": "image/png"})
    assert answer.status_code == 422
    assert "more than 20,000 allowed" in answer.json()["detail"]
    bomb = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(bomb, "PNG")
    answer = strict.client.post("/predict", content=bomb.getvalue(), headers={"Content-Type": "image/png"})
    assert answer.status_code == 422


def test_slow_headers_are_cut_off(strict: Server) -> None:
    started = time.monotonic()
    received = exchange(strict, *[b"GET / HTTP/1.1\r\n", *[b"X-A: b\r\n"] * 30], pause=0.1)
    assert received.startswith(b"HTTP/1.1 408")
    assert b"application/problem+json" in received
    assert exchange(strict) == b""  # nothing at all is closed without a word
    assert exchange(strict, b"\r\n", b"\r\n", pause=0.1) != b"HTTP/1.1 200"
    assert time.monotonic() - started < 15


def test_slow_bodies_are_cut_off(strict: Server) -> None:
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer correct-horse-battery\r\n"
    received = exchange(
        strict, head + b"Content-Type: image/png\r\nContent-Length: 1000\r\n\r\n", *[b"x"] * 15, pause=0.1
    )
    assert received.startswith(b"HTTP/1.1 408")
    assert b"connection: close" in received.lower()


def test_large_headers_are_refused(strict: Server) -> None:
    for parts in (
        [b"GET / HTTP/1.1\r\nX-A: " + b"b" * 40_000 + b"\r\n\r\n"],
        [b"GET / HTTP/1.1\r\n", *[b"X-A: " + b"b" * 5000 + b"\r\n"] * 10],
        [b"GET /" + b"a" * 40_000 + b" HTTP/1.1\r\n\r\n"],
    ):
        received = exchange(strict, *parts)
        assert received.startswith((b"HTTP/1.1 431", b"")), received[:100]
        assert b" 200 " not in received[:20]


@pytest.mark.parametrize(
    "sent",
    [
        b"NOT HTTP\r\n\r\n",
        b"GET / HTTP/1.1\r\nContent-Length: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\n\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01",
    ],
)
def test_what_is_no_http_is_a_problem(strict: Server, sent: bytes) -> None:
    received = exchange(strict, sent)
    status = received[:12]
    assert status in (b"HTTP/1.1 400", b"HTTP/1.1 405"), received
    assert b"application/problem+json" in received


def test_slow_clients_hurt_nobody(strict: Server) -> None:
    held = []
    try:
        for _ in range(25):
            connection = socket.create_connection(strict.place)
            connection.sendall(b"POST /predict HTTP/1.1\r\n")
            held.append(connection)
        answer = strict.client.post("/predict", content=image(), headers={"Content-Type": "image/png"})
        assert answer.status_code == 200
        for _ in range(40):  # beyond what there may be
            connection = socket.create_connection(strict.place)
            held.append(connection)
        held[-1].settimeout(10)
        assert held[-1].recv(65536).startswith(b"HTTP/1.1 503")
    finally:
        for connection in held:
            connection.close()
    time.sleep(0.2)
    assert strict.client.get("/v2").status_code == 200


def test_pipelined_requests_are_answered_in_order(strict: Server) -> None:
    one = b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n"
    last = b"GET /none HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    received = exchange(strict, one + one + last)
    assert re.findall(rb"HTTP/1.1 (\d+)", received) == [b"200", b"200", b"401"]


def test_many_pipelined_requests_are_cut_off(strict: Server) -> None:
    received = exchange(strict, b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 1000)
    assert received.count(b"HTTP/1.1 200") <= 20
    assert strict.client.get("/v2").status_code == 200


def test_names_of_files_are_not_taken(server: Server, run: Path) -> None:
    for address in (
        "/page/../app.py",
        "/page/..%2fapp.py",
        "/page/app.py",
        "/models/..%2f..%2fsquares/card",
        f"/{run}",
    ):
        assert server.client.get(address).status_code == 404
