"""The token, request identifiers, the log, metrics and problems of the framework."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest
from served import Server


def test_token_is_needed(strict: Server) -> None:
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


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "localhost.evil.example", "a@127.0.0.1", "127.0.0.1.nip.io"]
)
def test_a_name_that_leads_to_this_machine_is_not_its_own(server: Server, host: str) -> None:
    """DNS rebinding: to its browser the page and the server are of one site."""
    for address in ("/models", "/metrics", "/v2"):
        answer = server.client.get(address, headers={"Host": host})
        assert answer.status_code == 403
        assert "the header Host has another name" in answer.json()["detail"]
    answer = server.client.post("/predict", headers={"Host": host, "Content-Type": "image/png"}, content=b"x")
    assert answer.status_code == 403
    assert server.client.get("/v2/health/ready", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:8000", "app.localhost", "127.0.0.1:1", "[::1]:8000", "10.0.0.7"]
)
def test_names_and_addresses_of_this_machine_are_its_own(server: Server, host: str) -> None:
    assert server.client.get("/models", headers={"Host": host}).status_code == 200


def test_with_a_token_any_host_may_be_published(strict: Server) -> None:
    assert strict.client.get("/models", headers={"Host": "photos.example"}).status_code == 200


def test_a_page_of_another_site_cannot_make_a_browser_ask(server: Server, proxied: Server) -> None:
    foreign = {"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example", "Content-Type": "image/png"}
    for running in (server, proxied):
        answer = running.client.post("/predict", headers=foreign, content=b"x")
        assert answer.status_code == 403
        assert "another site" in answer.json()["detail"]
        assert "access-control-allow-origin" not in answer.headers
    allowed = {**foreign, "Origin": "https://one.example"}
    assert proxied.client.post("/predict", headers=allowed, content=b"x").status_code == 422
    own = {**foreign, "Sec-Fetch-Site": "same-origin"}
    assert server.client.post("/predict", headers=own, content=b"x").status_code == 422


def test_unknown_addresses_and_methods_get_problems(server: Server) -> None:
    for method, address, status in (
        ("GET", "/nothing", 404),
        ("PATCH", "/predict", 405),
        ("GET", "/models/x/card", 404),
    ):
        answer = server.client.request(method, address)
        assert answer.status_code == status
        assert answer.headers["content-type"] == "application/problem+json"
        assert set(answer.json()) == {"type", "title", "status", "detail", "request_id"}


def test_valid_request_identifiers_are_kept(server: Server) -> None:
    for given in ("a", "0f3e-1.x_Y:z", "9" * 64):
        assert server.client.get("/v2", headers={"X-Request-ID": given}).headers["x-request-id"] == given
    for given in ("", "a b", "-a", "x" * 65, 'a"b', "a\tb", "é".encode()):
        answer = server.client.get("/v2", headers={"X-Request-ID": given})
        assert re.fullmatch("[0-9a-f]{32}", answer.headers["x-request-id"])


def test_metrics_contain_no_text_of_clients(server: Server, squares_folder: Path) -> None:
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


def test_log_is_json_without_control_characters(server: Server) -> None:
    server.client.get("/a%0d%0aevent:%20forged%7f", headers={"X-Request-ID": "logged-1"})
    until = time.monotonic() + 10
    while not (lines := [line for line in server.log if "logged-1" in line]) and time.monotonic() < until:
        time.sleep(0.01)
    assert len(lines) == 1
    value = json.loads(lines[0])
    assert (value["event"], value["route"], value["status"]) == ("request", "other", 404)
    assert "forged" not in "".join(server.log)


@pytest.mark.parametrize(
    "address", ["/", "/docs", "/openapi.json", "/page/page.js", "/models", "/models/squares/card", "/metrics", "/v2",
                "/v2/health/live", "/v2/health/ready", "/v2/models/squares", "/v2/models/squares/ready", "/nothing"],
)  # fmt: skip
def test_head_is_get_without_a_body(server: Server, address: str) -> None:
    head, get = server.client.head(address), server.client.get(address)
    assert (head.status_code, head.content) == (get.status_code, b"")
    assert head.headers["content-type"] == get.headers["content-type"]
    if address != "/metrics":
        assert head.headers["content-length"] == get.headers["content-length"]


def test_other_methods_are_named(server: Server) -> None:
    for method, address, allowed in (
        ("HEAD", "/predict", "POST"),
        ("GET", "/predict", "POST"),
        ("OPTIONS", "/predict", "POST"),
        ("POST", "/models", "GET, HEAD"),
        ("DELETE", "/v2/health/live", "GET, HEAD"),
    ):
        answer = server.client.request(method, address)
        assert (answer.status_code, answer.headers["allow"]) == (405, allowed)
        if method != "HEAD":
            assert answer.json()["detail"] == f"Received {method}; expected {allowed}."


@pytest.mark.parametrize("prefix", ["", "/a/b", "/a/b/", "//", "/a/b//"])
def test_addresses_work_with_and_without_the_prefix(proxied: Server, prefix: str) -> None:
    address = f"{prefix}/v2/models/squares" if not prefix.endswith("/") else f"{prefix}v2/models/squares"
    request = proxied.client.build_request("GET", "/")
    request.url = request.url.copy_with(raw_path=address.encode())
    assert proxied.client.send(request).json()["name"] == "squares"
    del request.headers["Authorization"]
    denied = proxied.client.send(request)
    assert (denied.status_code, "error" in denied.json()) == (401, True)  # as the protocol under /v2 asks


def test_only_whole_parts_of_a_path_are_a_prefix(proxied: Server) -> None:
    for address in ("/a/bmodels", "/a", "/a/models", "/a/b/a/b/models"):
        assert proxied.client.get(address).status_code == 404
    assert proxied.client.get("/a/b/openapi.json").json()["servers"] == [{"url": "/a/b"}]
    assert 'route="/v2/models/{name}"' in proxied.client.get("/metrics").text


def test_headers_of_proxies_have_no_effect(server: Server) -> None:
    plain = server.client.get("/models").content
    for name in ("Forwarded", "X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "X-Forwarded-Prefix"):
        for value in ("https", "for=1.2.3.4;proto=https;host=evil.example", '"', "/evil", ""):
            answer = server.client.get("/models", headers={name: value})
            assert (answer.status_code, answer.content) == (200, plain)
    assert "evil" not in "".join(server.log)


def test_pages_of_allowed_origins_may_use_the_server(proxied: Server, server: Server) -> None:
    question = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}
    for origin in ("https://one.example", "http://two.example:3000"):
        request = proxied.client.build_request("OPTIONS", "/a/b/predict", headers={"Origin": origin, **question})
        del request.headers["Authorization"]  # browsers ask without it
        answer = proxied.client.send(request)
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, origin)
        assert "Authorization" in answer.headers["access-control-allow-headers"]
        assert "POST" in answer.headers["access-control-allow-methods"]
        for address, status in (("/models", 200), ("/nothing", 404)):
            answer = proxied.client.get(address, headers={"Origin": origin})
            assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (status, origin)
            assert answer.headers["vary"] == "Origin"
        request = proxied.client.build_request("GET", "/models", headers={"Origin": origin})
        del request.headers["Authorization"]
        assert proxied.client.send(request).headers["access-control-allow-origin"] == origin
    for other in ("https://one.example.evil", "http://one.example", "null"):
        answer = proxied.client.options("/predict", headers={"Origin": other, **question})
        assert answer.status_code == 400
        assert "access-control-allow-origin" not in answer.headers
    answer = server.client.options("/predict", headers={"Origin": "https://one.example", **question})
    assert (answer.status_code, "access-control-allow-origin" in answer.headers) == (405, False)
