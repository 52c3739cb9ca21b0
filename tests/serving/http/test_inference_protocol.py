"""The Open Inference Protocol: metadata, and errors with its member `error`."""

from __future__ import annotations

import pytest
from served import Server


def test_server_and_models_are_described(server: Server) -> None:
    get = server.client.get
    assert get("/v2").json()["name"] == "regraft"
    assert get("/v2/health/live").json() == {"live": True}
    assert get("/v2/health/ready").json() == {"ready": True}
    metadata = get("/v2/models/squares").json()
    assert metadata["inputs"] == [{"name": "images", "datatype": "BYTES", "shape": [-1]}]
    assert [tensor["name"] for tensor in metadata["outputs"]] == ["probabilities", "label", "ood_p_value"]
    (version,) = metadata["versions"]
    assert get(f"/v2/models/squares/versions/{version}").json() == metadata
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
def test_errors_have_the_member_of_the_protocol(server: Server, method: str, address: str, status: int) -> None:
    answer = server.client.request(method, address)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["error"] == answer.json()["detail"]
    if status == 405:
        assert answer.headers["allow"] == ("POST" if method == "GET" else "GET, HEAD")


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
def test_invalid_inference_requests_are_refused(server: Server, question: object) -> None:
    answer = server.client.post("/v2/models/squares/infer", json=question)
    assert answer.status_code == 422
    assert answer.json()["error"]
