"""The server answers as the command does, bit for bit, however the images come."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from served import Server
from terminal import regraft


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Every mode, orientation and format."""
    place = tmp_path_factory.mktemp("modes")
    rng = np.random.default_rng(3)
    colours = np.kron(rng.integers(0, 256, (5, 7, 3)), np.ones((17, 13, 1))).astype(np.uint8)
    image = Image.fromarray(colours)
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[274] = orientation
        image.save(place / f"turned-{orientation}.jpg", exif=exif, quality=92)
    for mode in ("RGB", "L", "1", "P", "RGBA", "LA", "CMYK", "YCbCr", "LAB", "I;16", "F"):
        if mode in ("I;16", "F"):
            grey = np.asarray(image.convert("L"))
            values = grey.astype(np.uint16) * 257 if mode == "I;16" else grey.astype(np.float32) / 255
            Image.fromarray(values).save(place / f"{mode.replace(';', '')}.tif")
            continue
        made = image.convert(mode)
        if mode in ("RGBA", "LA"):
            made.putalpha(Image.fromarray(rng.integers(0, 256, colours.shape[:2]).astype(np.uint8)))
        made.save(place / f"{mode}.{'tif' if mode in ('CMYK', 'YCbCr', 'LAB') else 'png'}")
    Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257).save(place / "sixteen.png")
    image.save(place / "palette.gif", save_all=True, append_images=[image.rotate(90)])
    image.save(place / "plain.webp", lossless=True)
    image.save(place / "plain.bmp")
    image.save(place / "plain.ppm")
    image.convert("CMYK").save(place / "cmyk.jpg")
    image.convert("P").save(place / "transparent.png", transparency=3)
    image.resize((900, 1300)).save(place / "large.jpg")  # decoded at a fraction of its size
    return sorted(place.iterdir())


@pytest.fixture(scope="module")
def told(files: list[Path], run: Path) -> dict[str, dict[str, Any]]:
    """What `regraft predict` says of each file, alone."""
    found = {}
    for file in files:
        done = regraft("predict", run, file, "--json", "--top", 3, "--sure", 0.95, "--unknown", 0.3)
        assert done.returncode == 0, done.stderr
        value = json.loads(done.stdout)
        del value["path"]
        found[file.name] = value
    return found


def test_every_mode_and_orientation_alone(server: Server, files: list[Path], told: dict[str, Any]) -> None:
    for file in files:
        answer = server.client.post("/predict", content=file.read_bytes(), headers={"Content-Type": "image/*"})
        assert answer.status_code == 200, answer.text
        assert answer.json()["images"] == [told[file.name]]


def test_every_mode_and_orientation_together(server: Server, files: list[Path], told: dict[str, Any]) -> None:
    assert len(files) <= 32
    parts = [("image", (file.name, file.read_bytes())) for file in files]
    answer = server.client.post("/predict", files=parts)
    assert answer.status_code == 200
    assert answer.json()["images"] == [{"name": file.name, **told[file.name]} for file in files]
    texts = [base64.b64encode(file.read_bytes()).decode() for file in files]
    answer = server.client.post("/predict", json={"images": texts}, params={"model": "other"})
    assert answer.json()["images"] == [told[file.name] for file in files]
    assert answer.json()["model"] == "other"


def test_the_protocol_says_the_same(server: Server, files: list[Path], told: dict[str, Any]) -> None:
    texts = [base64.b64encode(file.read_bytes()).decode() for file in files]
    question = {"id": "7", "inputs": [{"name": "images", "shape": [len(files)], "datatype": "BYTES", "data": texts}]}
    version = server.client.get("/v2/models/squares").json()["versions"][0]
    for address in ("/v2/models/squares/infer", f"/v2/models/squares/versions/{version}/infer"):
        answer = server.client.post(address, json=question)
        assert answer.status_code == 200
        value = answer.json()
        assert (value["id"], value["model_name"], value["model_version"]) == ("7", "squares", version)
        outputs = {tensor["name"]: tensor for tensor in value["outputs"]}
        rows = np.array(outputs["probabilities"]["data"]).reshape(outputs["probabilities"]["shape"])
        for file, row, label, familiarity in zip(
            files, rows.tolist(), outputs["label"]["data"], outputs["familiarity"]["data"], strict=True
        ):
            expected = told[file.name]
            assert sorted(row, reverse=True) == [item["probability"] for item in expected["top"]]
            assert label == expected["top"][0]["label"]
            assert familiarity == expected["familiarity"]
    one = {**question, "outputs": [{"name": "label"}]}
    assert [t["name"] for t in server.client.post(address, json=one).json()["outputs"]] == ["label"]


def test_a_bad_image_fails_alone(server: Server, squares_folder: Path) -> None:
    good = (squares_folder / "red" / "01.png").read_bytes()
    answer = server.client.post("/predict", files=[("image", ("a.png", good)), ("image", ("b.png", b"nothing"))])
    assert answer.status_code == 200
    first, second = answer.json()["images"]
    assert first["label"] is None or first["label"] in ("blue", "green", "red")
    assert second == {"name": "b.png", "error": "not an image that can be read (JPEG, PNG, WEBP, BMP, GIF, TIFF, PPM)"}


def test_where_all_are_bad_the_request_fails(server: Server) -> None:
    for content, kind in ((b"", "image/png"), (b"nothing", "image/jpeg")):
        answer = server.client.post("/predict", content=content, headers={"Content-Type": kind})
        assert answer.status_code == 422
        assert answer.headers["content-type"] == "application/problem+json"
        assert "cannot be read" in answer.json()["detail"]
        assert len(answer.json()["images"]) == 1


def test_classes_are_bounded(server: Server, squares_folder: Path) -> None:
    content = (squares_folder / "blue" / "01.png").read_bytes()
    headers = {"Content-Type": "application/octet-stream"}
    for asked, given in ((1, 1), (2, 2), (1000, 3)):
        answer = server.client.post(f"/predict?top_k={asked}", content=content, headers=headers)
        assert len(answer.json()["images"][0]["top"]) == given
    for asked in ("0", "1001", "many", "-1", "1e3"):
        answer = server.client.post(f"/predict?top_k={asked}", content=content, headers=headers)
        assert answer.status_code == 422
        assert answer.json()["errors"][0]["where"] == "query.top_k"
    answer = server.client.post("/predict?topk=2", content=content, headers=headers)
    assert answer.status_code == 422
    assert "query.topk" in answer.json()["detail"]


def test_a_heat_map_lies_over_the_picture(server: Server, tmp_path: Path) -> None:
    pixels = np.full((60, 200, 3), 120, np.uint8)
    pixels[10:50, 20:60] = (220, 40, 30)
    exif = Image.Exif()
    exif[274] = 6
    file = tmp_path / "wide.jpg"
    Image.fromarray(pixels).save(file, exif=exif, quality=95)
    answer = server.client.post(
        "/predict?explain=true", content=file.read_bytes(), headers={"Content-Type": "image/jpeg"}
    ).json()["images"][0]
    found = answer["heat_map"]
    assert (found["width"], found["height"]) == (60, 200)
    assert found["label"] == answer["top"][0]["label"]
    for name, mode in (("image", "RGB"), ("heat", "RGBA")):
        with Image.open(io.BytesIO(base64.b64decode(found[name]))) as picture:
            assert (picture.size, picture.mode) == ((60, 200), mode)


def test_names_of_files_are_only_repeated(server: Server, squares_folder: Path) -> None:
    content = (squares_folder / "blue" / "01.png").read_bytes()
    for given, expected in (("../../etc/passwd", "passwd"), ("C:\\a\\b.png", "b.png"), ("é\x07.png", "é .png")):
        answer = server.client.post("/predict", files=[("image", (given, content))])
        assert answer.json()["images"][0]["name"] in (expected, expected.replace(" ", "%07"))


@pytest.mark.parametrize(
    ("kind", "body", "status", "said"),
    [
        ("application/json", b"{", 400, "not a JSON document"),
        ("application/json", b"[" * 100_000, 400, "not a JSON document"),
        ("application/json", b'{"image": NaN}', 400, "not a JSON document"),
        ("application/json", b"\xff\xfe", 400, "not a JSON document"),
        ("application/json", b'{"url": "http://example.org/a.png"}', 422, "Expected"),
        ("application/json", b'{"image": "http://example.org/a.png"}', 422, "base64"),
        ("application/json", b'{"image": "data:image/png;base64,AAAA"}', 422, "base64"),
        ("application/json", b'{"image": 5}', 422, "not a string"),
        ("application/json", b'{"images": []}', 422, "at least one"),
        ("application/json", b'{"images": ["AAAA"], "image": "AAAA"}', 422, "Expected"),
        ("multipart/form-data", b"", 400, "boundary"),
        ("multipart/form-data; boundary=x", b"", 400, "form"),
        ("multipart/form-data; boundary=x", b"--x--\r\n", 422, "no image"),
        ("multipart/form-data; boundary=x", b"--x\r\nno header\r\n\r\n", 400, "form"),
        (
            "multipart/form-data; boundary=x",
            b'--x\r\nContent-Disposition: form-data; name="image"\r\n\r\nhalf',
            400,
            "last boundary",
        ),
        (
            "multipart/form-data; boundary=x",
            b'--x\r\nContent-Disposition: form-data; name="path"\r\n\r\n/etc/passwd\r\n--x--\r\n',
            422,
            "'path'",
        ),
        ("text/plain", b"hello", 415, "'text/plain'"),
        ("", b"hello", 415, "without a type"),
    ],
)
def test_what_is_no_image_is_refused(server: Server, kind: str, body: bytes, status: int, said: str) -> None:
    answer = server.client.post("/predict", content=body, headers={"Content-Type": kind})
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    value = answer.json()
    assert said in value["detail"]
    assert value["status"] == status
    assert value["request_id"] == answer.headers["x-request-id"]
    assert "error" not in value
