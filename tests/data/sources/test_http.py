from __future__ import annotations

import pytest

from regraft.data.sources import http as http_module
from regraft.data.sources.http import WebFolder, fetch


def test_a_web_folder_reads_files_below_it(server, png):
    server.files = {"/d/a b.png": png("a"), "/other.png": png("b")}
    folder = WebFolder(f"http://me:secret@{server.host}/d")
    assert folder.read("a b.png") == png("a")
    assert (folder.top.files, folder.top.folders, folder.stamp("a b.png")) == ([], [], None)
    assert folder.exists("a b.png")
    assert not folder.exists(" a b.png")
    with pytest.raises(ValueError, match=r"\.\./other\.png leads out of http://127") as caught:
        folder.read("../other.png")
    assert "secret" not in str(caught.value)


def test_a_password_is_not_sent_on_to_where_a_server_points(server, png):
    server.files = {"/1.png": png("1")}
    assert fetch(f"http://me:secret@{server.host}/moved/1.png") == png("1")
    assert [bool(password) for _, password in server.asked] == [True, False]


@pytest.mark.parametrize(("answers", "fine"), [([503], True), ([429], True), ([503, 503], False), ([403], False)])
def test_a_busy_server_is_asked_twice(server, png, answers, fine):
    server.files, server.broken = {"/1.png": png("1")}, {"/1.png": list(answers)}
    if fine:
        assert fetch(f"{server.url}/1.png") == png("1")
    else:
        with pytest.raises(OSError, match=f"HTTP status {answers[0]}: "):
            fetch(f"{server.url}/1.png")
    assert len(server.asked) == len(answers) + fine


def test_answers_that_are_cut_off_or_too_long(server, monkeypatch, png):
    server.files = {"/cut/1.png": png("1"), "/2.png": bytes(3000)}
    with pytest.raises(OSError, match=r"truncated: received \d+ of \d+ bytes|IncompleteRead"):
        fetch(f"{server.url}/cut/1.png")
    monkeypatch.setattr(http_module, "FILE_LIMIT", 2000)
    with pytest.raises(OSError, match="more than the 2,000 bytes that are allowed"):
        fetch(f"{server.url}/2.png")


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:1/x.png", "http://[::1/x.png", "http:///x.png", "http://h:99999/x.png"]
)
def test_addresses_where_nothing_is(monkeypatch, url):
    monkeypatch.setattr(http_module, "_PAUSE", 0.0)
    with pytest.raises(OSError, match=r".+"):
        fetch(url)
