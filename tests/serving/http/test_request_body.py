"""Limits of request bodies: bytes, images and pixels."""

from __future__ import annotations

import base64
import contextlib
import http.client
import io
from collections.abc import Iterator

import httpx
import numpy as np
from PIL import Image
from served import Server


def image(side: int = 20) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (side, side, 3)).astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


def test_large_bodies_are_refused_before_and_while_they_arrive(strict: Server) -> None:
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


def test_a_client_that_reads_after_sending_sees_that_its_body_is_too_large(strict: Server) -> None:
    headers = {"Authorization": "Bearer correct-horse-battery", "Content-Type": "image/png"}
    for body in (b"x" * 700_000, iter([b"x" * 70_000] * 10)):
        connection = http.client.HTTPConnection(*strict.host_and_port, timeout=20)
        connection.request("POST", "/predict", body, headers)
        assert connection.getresponse().status == 413
        connection.close()


def test_too_many_images_are_refused(strict: Server) -> None:
    text = base64.b64encode(image()).decode()
    assert strict.client.post("/predict", json={"images": [text] * 2}).status_code == 200
    for options in ({"json": {"images": [text] * 3}}, {"files": [("image", ("a", image()))] * 3}):
        answer = strict.client.post("/predict", **options)  # type: ignore[arg-type]
        assert answer.status_code == 422
        assert "2 at most" in answer.json()["detail"]
    question = {"inputs": [{"name": "images", "shape": [3], "datatype": "BYTES", "data": [text] * 3}]}
    assert strict.client.post("/v2/models/squares/infer", json=question).status_code == 422


def test_images_with_too_many_pixels_are_refused(strict: Server) -> None:
    answer = strict.client.post("/predict", content=image(142), headers={"Content-Type": "image/png"})
    assert answer.status_code == 422
    assert "more than 20,000 allowed" in answer.json()["detail"]
    bomb = io.BytesIO()
    Image.new("1", (13_500, 13_500)).save(bomb, "PNG")
    answer = strict.client.post("/predict", content=bomb.getvalue(), headers={"Content-Type": "image/png"})
    assert answer.status_code == 422
