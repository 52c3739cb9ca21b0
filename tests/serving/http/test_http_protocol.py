"""Slow, large and malformed connections are refused, and do not affect others."""

from __future__ import annotations

import io
import re
import socket
import time

import numpy as np
import pytest
from PIL import Image
from served import Server


def exchange(server: Server, *parts: bytes, pause: float = 0.0) -> bytes:
    """Send these parts and return all that is received until the connection is closed."""
    with socket.create_connection(server.host_and_port, timeout=20) as connection:
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


def test_slow_headers_end_the_connection(strict: Server) -> None:
    started = time.monotonic()
    received = exchange(strict, *[b"GET / HTTP/1.1\r\n", *[b"X-A: b\r\n"] * 30], pause=0.1)
    assert received.startswith(b"HTTP/1.1 408")
    assert b"application/problem+json" in received
    assert exchange(strict) == b""  # a connection that sends nothing is closed
    assert exchange(strict, b"\r\n", b"\r\n", pause=0.1) != b"HTTP/1.1 200"
    assert time.monotonic() - started < 15


def test_slow_bodies_end_the_connection(strict: Server) -> None:
    head = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer correct-horse-battery\r\n"
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
def test_malformed_requests_get_a_problem(strict: Server, sent: bytes) -> None:
    received = exchange(strict, sent)
    status = received[:12]
    assert status in (b"HTTP/1.1 400", b"HTTP/1.1 405"), received
    assert b"application/problem+json" in received


def test_slow_clients_do_not_affect_others(strict: Server) -> None:
    connections = []
    try:
        for _ in range(25):
            connection = socket.create_connection(strict.host_and_port)
            connection.sendall(b"POST /predict HTTP/1.1\r\n")
            connections.append(connection)
        answer = strict.client.post("/predict", content=image(), headers={"Content-Type": "image/png"})
        assert answer.status_code == 200
        for _ in range(40):  # more than the limit
            connection = socket.create_connection(strict.host_and_port)
            connections.append(connection)
        connections[-1].settimeout(10)
        assert connections[-1].recv(65536).startswith(b"HTTP/1.1 503")
    finally:
        for connection in connections:
            connection.close()
    time.sleep(0.2)
    assert strict.client.get("/v2").status_code == 200


def test_pipelined_requests_are_answered_in_order(strict: Server) -> None:
    one = b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"
    last = b"GET /none HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    received = exchange(strict, one + one + last)
    assert re.findall(rb"HTTP/1.1 (\d+)", received) == [b"200", b"200", b"401"]


def test_long_pipelines_end_the_connection(strict: Server) -> None:
    received = exchange(strict, b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n" * 1000)
    assert received.count(b"HTTP/1.1 200") <= 20
    assert strict.client.get("/v2").status_code == 200


LIVE = b" /v2/health/live HTTP/1."


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET" + LIVE + b"0\r\n\r\n", 200),
        (b"GET" + LIVE + b"0\r\nConnection: keep-alive\r\n\r\n", 200),
        (b"HEAD" + LIVE + b"0\r\n\r\n", 200),
        (b"GET http://example.org/v2/health/live HTTP/1.1\r\nHost: example.org\r\nConnection: close\r\n\r\n", 200),
        (b"GET //v2/health/live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", 200),
        (b"GET" + LIVE + b"1\r\nHost: localhost\r\nConnection: close, Upgrade\r\nUpgrade: h2c\r\n\r\n", 200),
        (b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", 404),
    ],
)
def test_forms_of_requests(server: Server, sent: bytes, status: int) -> None:
    received = exchange(server, sent)
    assert re.findall(rb"HTTP/1.1 (\d+)", received) == [str(status).encode()], received
    if sent.startswith(b"HEAD"):
        assert received.endswith(b"\r\n\r\n")


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
def test_bodies_in_chunks_after_continue_and_with_an_upgrade(server: Server, version: bytes) -> None:
    content = image()
    head = b"POST /predict HTTP/" + version + b"\r\nHost: localhost\r\nConnection: close\r\nContent-Type: image/png\r\n"
    length = b"Content-Length: %d\r\n" % len(content)
    assert exchange(server, head + length + b"\r\n" + content).startswith(b"HTTP/1.1 200")
    if version == b"1.1":
        chunks = b"".join(b"%x\r\n%b\r\n" % (len(c), c) for c in (content[:7], content[7:])) + b"0\r\n\r\n"
        received = exchange(server, head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks)
        assert received.startswith(b"HTTP/1.1 200"), received
        received = exchange(server, head + length + b"Expect: 100-continue\r\n\r\n", content, pause=0.3)
        assert re.findall(rb"HTTP/1.1 (\d+)", received) == [b"100", b"200"], received
        upgrade = head.replace(b"close", b"Upgrade, HTTP2-Settings, close") + b"Upgrade: h2c\r\nHTTP2-Settings: AAM\r\n"
        assert exchange(server, upgrade + length + b"\r\n" + content).startswith(b"HTTP/1.1 200")
        too_long = head + b"Content-Length: 999999999\r\nExpect: 100-continue\r\n\r\n"
        assert exchange(server, too_long).startswith(b"HTTP/1.1 413")


def test_connection_is_kept(server: Server) -> None:
    with socket.create_connection(server.host_and_port, timeout=20) as connection:
        for number in range(3):
            method = (b"HEAD", b"GET", b"HEAD")[number]
            connection.sendall(method + LIVE + b"1\r\nHost: localhost\r\n\r\n")
            received = b""
            while not received.endswith(b"}" if method == b"GET" else b"\r\n\r\n"):
                received += connection.recv(65536)
            assert received.startswith(b"HTTP/1.1 200")
            assert received.count(b"HTTP/1.1") == 1
