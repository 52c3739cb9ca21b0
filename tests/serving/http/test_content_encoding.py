"""Compressed bodies are unpacked within the limits, and other encodings are named."""

from __future__ import annotations

import gzip
import io
import socket
import zlib

import numpy as np
import pytest
from PIL import Image
from served import Server


def picture() -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 20, 3)).astype(np.uint8)).save(file, "BMP")
    return file.getvalue()


def post(server: Server, body: bytes, encoding: str, **headers: str) -> tuple[int, str]:
    answer = server.client.post(
        "/predict", content=body, headers={"Content-Type": "image/bmp", "Content-Encoding": encoding, **headers}
    )
    return answer.status_code, answer.text


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", gzip.compress(picture(), mtime=0)),
        ("GZIP", gzip.compress(picture(), 0, mtime=0)),
        ("x-gzip", gzip.compress(picture(), mtime=0)),
        ("deflate", zlib.compress(picture())),
        ("identity", picture()),
        ("", picture()),
    ],
)
def test_body_is_unpacked(strict: Server, encoding: str, body: bytes) -> None:
    assert post(strict, body, encoding)[0] == 200


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (picture(), "incorrect header"),
        (gzip.compress(picture(), mtime=0)[:-9], "ends too early"),
        (gzip.compress(picture(), mtime=0) + b"more", "more bytes after the end"),
        (gzip.compress(picture(), mtime=0) * 2, "more bytes after the end"),
        (b"", "ends too early"),
    ],
)
def test_damaged_body_is_named(strict: Server, body: bytes, said: str) -> None:
    status, text = post(strict, body, "gzip")
    assert status == 400
    assert said in text


@pytest.mark.parametrize("encoding", ["br", "zstd", "compress", "gzip, gzip", "gzip;q=1", "\x7f"])
def test_other_encodings_are_refused(strict: Server, encoding: str) -> None:
    answer = strict.client.post(
        "/predict", content=picture(), headers={"Content-Type": "image/bmp", "Content-Encoding": encoding}
    )
    assert answer.status_code in (400, 415)
    if answer.status_code == 415:
        assert answer.headers["accept-encoding"] == "gzip, deflate"
        assert "expected gzip, deflate or none" in answer.json()["detail"]


def test_bomb_is_refused_before_it_is_unpacked(strict: Server) -> None:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    bomb = b"".join([*(packer.compress(bytes(2**20)) for _ in range(90)), packer.flush()])
    assert len(bomb) < 100_000
    status, text = post(strict, bomb, "gzip")
    assert status == 413
    assert "100,000" in text
    assert "\nregraft_buffered_bytes 0.0\n" in strict.client.get("/metrics").text


def test_too_large_body_that_never_ends_is_not_called_slow(strict: Server) -> None:
    """The server waits longer for the rest of it than for a body that it accepts."""
    head = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer correct-horse-battery\r\n"
    head += b"Content-Type: image/bmp\r\nTransfer-Encoding: chunked\r\n\r\n"
    with socket.create_connection(strict.host_and_port, timeout=20) as connection:
        connection.sendall(head + b"1a000\r\n" + bytes(0x1A000) + b"\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 413")


def test_protocol_and_transfer_encoding(server: Server) -> None:
    body = gzip.compress(b'{"inputs": [{"name": "images", "shape": [1], "datatype": "BYTES", "data": ["!"]}]}')
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    answer = server.client.post("/v2/models/squares/infer", content=body, headers=headers)
    assert (answer.status_code, "base64" in answer.text) == (422, True)
    head = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: image/bmp\r\n"
    with socket.create_connection(server.host_and_port, timeout=20) as connection:
        connection.sendall(head + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 501")
