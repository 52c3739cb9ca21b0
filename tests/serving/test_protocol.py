"""The Open Inference Protocol, errors, names of requests and what is told of the server."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest
from served import Server


def test_the_protocol_describes_the_server(server: Server) -> None:
    get = server.client.get
    assert get("/v2").json()["name"] == "regraft"
    assert get("/v2/health/live").json() == {"live": True}
    assert get("/v2/health/ready").json() == {"ready": True}
    found = get("/v2/models/squares").json()
    assert found["inputs"] == [{"name": "images", "datatype": "BYTES", "shape": [-1]}]
    assert [tensor["name"] for tensor in found["outputs"]] == ["probabilities", "label", "familiarity"]
    (version,) = found["versions"]
    assert get(f"/v2/models/squares/versions/{version}").json() == found
    for address in ("/v2/models/other/ready", f"/v2/models/other/versions/{version}/ready"):
        assert get(address).json() == {"name": "other", "ready": True}


@pytest.mark.parametrize(
    ("method", "address", "status"),
    [
        ("GET", "/v2/models/none", 404),
        ("GET", "/v2/models/squares/versions/none", 404),
        ("GET", "/v2/none", 404),
        ("DELETE", "/v2", 405),
        ("POST", "/v2/models/squares/infer", 415),
        ("GET", "/v2/models/squares/infer", 405),
    ],
)
def test_errors_of_the_protocol_have_its_member(server: Server, method: str, address: str, status: int) -> None:
    answer = server.client.request(method, address)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["error"] == answer.json()["detail"]
    if status == 405:
        assert answer.headers["allow"] == ("POST" if method == "GET" else "GET")


@pytest.mark.parametrize(
    "question",
    [
        {},
        [],
        {"inputs": []},
        {"inputs": [{"name": "images", "shape": [2], "datatype": "BYTES", "data": ["AAAA"]}]},
        {"inputs": [{"name": "pixels", "shape": [1], "datatype": "BYTES", "data": ["AAAA"]}]},
        {"inputs": [{"name": "images", "shape": [1], "datatype": "UINT8", "data": [1]}]},
        {"inputs": [{"name": "images", "shape": [1], "datatype": "BYTES", "data": ["AAAA"]}]},
        {
            "inputs": [{"name": "images", "shape": [1], "datatype": "BYTES", "data": ["AAAA"]}],
            "outputs": [{"name": "weights"}],
        },
    ],
)
def test_what_is_no_inference_request_is_refused(server: Server, question: object) -> None:
    answer = server.client.post("/v2/models/squares/infer", json=question)
    assert answer.status_code == 422
    assert answer.json()["error"]


def test_errors_of_the_framework_are_problems(server: Server) -> None:
    for method, address, status in (
        ("GET", "/nothing", 404),
        ("PATCH", "/predict", 405),
        ("GET", "/models/x/card", 404),
    ):
        answer = server.client.request(method, address)
        assert answer.status_code == status
        assert answer.headers["content-type"] == "application/problem+json"
        assert set(answer.json()) == {"type", "title", "status", "detail", "request_id"}


def test_requests_keep_their_names(server: Server) -> None:
    for given in ("a", "0f3e-1.x_Y:z", "9" * 64):
        assert server.client.get("/v2", headers={"X-Request-ID": given}).headers["x-request-id"] == given
    for given in ("", "a b", "-a", "x" * 65, 'a"b', "a\tb", "é".encode()):
        answer = server.client.get("/v2", headers={"X-Request-ID": given})
        assert re.fullmatch("[0-9a-f]{32}", answer.headers["x-request-id"])


def test_metrics_count_without_words_of_clients(server: Server, squares_folder: Path) -> None:
    content = (squares_folder / "blue" / "01.png").read_bytes()
    server.client.post("/predict", content=content, headers={"Content-Type": "image/png"})
    server.client.request("PROPFIND", "/very-own-path?and=words", headers={"X-Request-ID": "own-name"})
    answer = server.client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    text = answer.text
    for word in ("very-own", "words", "own-name", "PROPFIND"):
        assert word not in text
    for name in ("requests_total", "request_seconds_bucket", "batch_images_sum", "queue_images", "rejections"):
        assert f"regraft_{name}" in text
    assert re.search(r'regraft_requests_total\{method="other",route="other",status="40\d"\} ', text)
    assert re.search(r'regraft_images_total\{model="squares",outcome="answered"\} \d', text)
    assert "\nregraft_ready 1.0\n" in text


def test_the_log_is_json_without_control_characters(server: Server) -> None:
    server.client.get("/a%0d%0aevent:%20forged%7f", headers={"X-Request-ID": "logged-1"})
    until = time.monotonic() + 10
    while not (lines := [line for line in server.log if "logged-1" in line]) and time.monotonic() < until:
        time.sleep(0.01)
    assert len(lines) == 1
    value = json.loads(lines[0])
    assert (value["event"], value["route"], value["status"]) == ("request", "other", 404)
    assert "forged" not in "".join(server.log)


def test_models_are_described(server: Server) -> None:
    value = server.client.get("/models").json()
    assert [model["name"] for model in value["models"]] == ["squares", "other"]
    first = value["models"][0]
    assert first["classes"] == ["blue", "green", "red"]
    assert (first["engine"], first["image_size"], first["explains"]) == ("torch", 32, True)
    assert {"Backbone", "Accuracy", "Learnt from"} <= {fact["title"] for fact in first["facts"]}
    card = server.client.get("/models/squares/card")
    assert card.headers["content-type"] == "text/markdown; charset=utf-8"
    assert "# squares" in card.text
