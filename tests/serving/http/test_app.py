"""`/predict` gives the answers of the command, bit for bit, for every way to send images."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from PIL import Image
from pydicom.data import get_testdata_file
from served import Server
from terminal import regraft

from regraft.data.decode import decode_image
from regraft.models.rejection import RejectionPolicy
from regraft.runs.run import load

FIXTURES = Path(__file__).parents[2] / "fixtures"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Every mode, orientation and format."""
    folder = tmp_path_factory.mktemp("modes")
    rng = np.random.default_rng(3)
    colors = np.kron(rng.integers(0, 256, (5, 7, 3)), np.ones((17, 13, 1))).astype(np.uint8)
    image = Image.fromarray(colors)
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[274] = orientation
        image.save(folder / f"turned-{orientation}.jpg", exif=exif, quality=92)
    for mode in ("RGB", "L", "1", "P", "RGBA", "LA", "CMYK", "YCbCr", "LAB", "I;16", "F"):
        if mode in ("I;16", "F"):
            gray = np.asarray(image.convert("L"))
            values = gray.astype(np.uint16) * 257 if mode == "I;16" else gray.astype(np.float32) / 255
            Image.fromarray(values).save(folder / f"{mode.replace(';', '')}.tif")
            continue
        made = image.convert(mode)
        if mode in ("RGBA", "LA"):
            made.putalpha(Image.fromarray(rng.integers(0, 256, colors.shape[:2]).astype(np.uint8)))
        made.save(folder / f"{mode}.{'tif' if mode in ('CMYK', 'YCbCr', 'LAB') else 'png'}")
    Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257).save(folder / "sixteen.png")
    image.save(folder / "palette.gif", save_all=True, append_images=[image.rotate(90)])
    image.save(folder / "plain.webp", lossless=True)
    image.save(folder / "plain.bmp")
    image.save(folder / "plain.ppm")
    image.convert("CMYK").save(folder / "cmyk.jpg")
    image.convert("P").save(folder / "transparent.png", transparency=3)
    image.resize((900, 1300)).save(folder / "large.jpg")  # decoded at a fraction of its size
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def expected(files: list[Path], run: Path) -> dict[str, dict[str, Any]]:
    """The answer to each file alone, by file name; checked against the command for one file."""
    loaded = load(run)
    policy = RejectionPolicy(min_confidence=loaded.confidence_threshold(0.95).threshold, ood_threshold=0.3)
    answers = {file.name: policy.to_json(loaded.predict(file)[0], 3) for file in files}
    done = regraft("predict", run, files[0], "--json", "--top", 3, "--min-accuracy", 0.95, "--ood-rate", 0.3)
    assert json.loads(done.stdout) == {"path": str(files[0]), **answers[files[0].name]}
    return answers


def test_every_mode_and_orientation_alone(server: Server, files: list[Path], expected: dict[str, Any]) -> None:
    for file in files:
        answer = server.client.post("/predict", content=file.read_bytes(), headers={"Content-Type": "image/*"})
        assert answer.status_code == 200, answer.text
        assert answer.json()["images"] == [expected[file.name]]


def test_every_mode_and_orientation_together(server: Server, files: list[Path], expected: dict[str, Any]) -> None:
    assert len(files) <= 32
    parts = [("image", (file.name, file.read_bytes())) for file in files]
    answer = server.client.post("/predict", files=parts)
    assert answer.status_code == 200
    assert answer.json()["images"] == [{"name": file.name, **expected[file.name]} for file in files]
    texts = [base64.b64encode(file.read_bytes()).decode() for file in files]
    answer = server.client.post("/predict", json={"images": texts}, params={"model": "other"})
    assert answer.json()["images"] == [expected[file.name] for file in files]
    assert answer.json()["model"] == "other"


def test_inference_protocol_gives_the_same_answers(server: Server, files: list[Path], expected: dict[str, Any]) -> None:
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
        for file, row, label, p_value in zip(
            files, rows.tolist(), outputs["label"]["data"], outputs["ood_p_value"]["data"], strict=True
        ):
            answer = expected[file.name]
            assert sorted(row, reverse=True) == [item["probability"] for item in answer["top"]]
            assert label == answer["top"][0]["label"]
            assert p_value == answer["ood_p_value"]
    one = {**question, "outputs": [{"name": "label"}]}
    assert [t["name"] for t in server.client.post(address, json=one).json()["outputs"]] == ["label"]


def test_bad_image_does_not_affect_others(server: Server, squares_folder: Path) -> None:
    good = (squares_folder / "red" / "01.png").read_bytes()
    answer = server.client.post("/predict", files=[("image", ("a.png", good)), ("image", ("b.png", b"nothing"))])
    assert answer.status_code == 200
    first, second = answer.json()["images"]
    assert first["label"] is None or first["label"] in ("blue", "green", "red")
    assert second == {"name": "b.png", "error": "not an image that can be read: a text file"}


@pytest.mark.parametrize(
    ("file", "kind"),
    [
        (FIXTURES / "heic" / "irot_and_exif.heic", "image/heic"),
        (FIXTURES / "jpeg_xl" / "turned.jxl", "image/jxl"),
        (Path(str(get_testdata_file("MR_small.dcm"))), "application/dicom"),
    ],
)
def test_photos_of_phones_and_of_scanners(server: Server, file: Path, kind: str) -> None:
    answer = server.client.post("/predict?explain=true", content=file.read_bytes(), headers={"Content-Type": kind})
    assert answer.status_code == 200, answer.text
    heat_map = answer.json()["images"][0]["heat_map"]
    height, width = decode_image(file).shape[:2]
    assert (heat_map["width"], heat_map["height"]) == (width, height)


def test_request_fails_if_no_image_can_be_read(server: Server) -> None:
    for content, kind in ((b"", "image/png"), (b"nothing", "image/jpeg")):
        answer = server.client.post("/predict", content=content, headers={"Content-Type": kind})
        assert answer.status_code == 422
        assert answer.headers["content-type"] == "application/problem+json"
        assert "cannot be read" in answer.json()["detail"]
        assert len(answer.json()["images"]) == 1


def test_top_k_is_validated(server: Server, squares_folder: Path) -> None:
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


def test_heat_map_has_the_size_of_the_image(server: Server, tmp_path: Path) -> None:
    pixels = np.full((60, 200, 3), 120, np.uint8)
    pixels[10:50, 20:60] = (220, 40, 30)
    exif = Image.Exif()
    exif[274] = 6
    file = tmp_path / "wide.jpg"
    Image.fromarray(pixels).save(file, exif=exif, quality=95)
    answer = server.client.post(
        "/predict?explain=true", content=file.read_bytes(), headers={"Content-Type": "image/jpeg"}
    ).json()["images"][0]
    heat_map = answer["heat_map"]
    assert (heat_map["width"], heat_map["height"]) == (60, 200)
    assert heat_map["label"] == answer["top"][0]["label"]
    for name, mode in (("image", "RGB"), ("heat", "RGBA")):
        with Image.open(io.BytesIO(base64.b64decode(heat_map[name]))) as picture:
            assert (picture.size, picture.mode) == ((60, 200), mode)


def test_file_names_are_repeated_without_folders(server: Server, squares_folder: Path) -> None:
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
        ("application/json", b'{"image": "data:image/png;base64,AAAA"}', 422, "cannot be read"),
        ("application/json", b'{"image": "data:image/png,%89PNG"}', 422, "without `;base64,`"),
        ("application/json", b'{"image": "data:image/png;base64"}', 422, "without `;base64,`"),
        ("application/json", b'{"image": "AA A"}', 422, "has spaces"),
        ("application/json", b'{"image": "AAAAA"}', 422, "multiple of 4"),
        ("application/json", b'{"image": "AAA=AAAA"}', 422, "base64"),
        ("application/json", '{"image": "AAÄ="}'.encode(), 422, "other characters"),
        ("image/png", b"data:image/png,x", 422, "without `;base64,`"),
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
def test_bodies_without_images_are_refused(server: Server, kind: str, body: bytes, status: int, said: str) -> None:
    answer = server.client.post("/predict", content=body, headers={"Content-Type": kind})
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    value = answer.json()
    assert said in value["detail"]
    assert value["status"] == status
    assert value["request_id"] == answer.headers["x-request-id"]
    assert "error" not in value


def test_models_are_described(server: Server) -> None:
    value = server.client.get("/models").json()
    assert [model["name"] for model in value["models"]] == ["squares", "other"]
    first = value["models"][0]
    assert first["classes"] == ["blue", "green", "red"]
    assert (first["engine"], first["image_size"], first["explains"]) == ("torch", 32, True)
    assert first["precision"] == "fp32"
    assert {"Backbone", "Accuracy", "Training images"} <= {fact["title"] for fact in first["facts"]}
    card = server.client.get("/models/squares/card")
    assert card.headers["content-type"] == "text/markdown; charset=utf-8"
    assert "# squares" in card.text


def test_data_urls_and_every_base64_are_understood(server: Server, squares_folder: Path) -> None:
    content = (squares_folder / "red" / "01.png").read_bytes() + b"\xfb\xef\xff"  # with + and / in base64
    content += b"\0" * (1 + -len(content) % 3)  # and padding
    text = base64.b64encode(content).decode()
    assert {"+", "/", "="} <= set(text)
    wrapped = "\r\n".join(text[i : i + 76] for i in range(0, len(text), 76))
    safe = base64.urlsafe_b64encode(content).decode()
    forms = [text, f" {wrapped}\n", base64.encodebytes(content).decode(), safe, safe.rstrip("="), text.rstrip("=")]
    forms += [f"data:image/png;base64,{text}", f"DATA:;BASE64,{wrapped}", f"data:image/png;name=a.png;base64,{safe}"]
    forms += [f"data:image/png;base64,{quote(text, safe='')}"]
    expected = server.client.post("/predict", content=content, headers={"Content-Type": "image/png"}).json()["images"]
    answer = server.client.post("/predict", json={"images": forms})
    assert answer.status_code == 200, answer.text
    assert answer.json()["images"] == expected * len(forms)
    assert (
        server.client.post("/predict", content=forms[6], headers={"Content-Type": "image/png"}).json()["images"]
        == expected
    )
    assert server.client.post("/predict", files={"image": (None, forms[6])}).json()["images"] == expected
    question = {"inputs": [{"name": "images", "shape": [2], "datatype": "BYTES", "data": forms[5:7]}]}
    labels = server.client.post("/v2/models/squares/infer", json=question).json()["outputs"][1]["data"]
    assert len(set(labels)) == 1
