from __future__ import annotations

import socket

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


#: Where names lead in the tests below: nothing is asked of a server there.
ADDRESSES = {
    "photos.example.org": "93.184.215.14", "intranet.example.org": "10.0.0.7", "mapped.example.org": "::ffff:10.0.0.7",
    "cloud.example.org": "169.254.169.254",
}  # fmt: skip


@pytest.fixture
def names(monkeypatch):
    """Names with the addresses above, in place of those of the network."""
    real = socket.getaddrinfo

    def find(host, *arguments, **options):
        if host in ADDRESSES:
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ADDRESSES[host], 0))]
        return real(host, *arguments, **options)

    monkeypatch.setattr(http_module.socket, "getaddrinfo", find)
    http_module._addresses.cache_clear()
    yield
    http_module._addresses.cache_clear()


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://photos.example.org/1.png", "gopher://127.0.0.1/"])
def test_a_redirect_leads_to_no_other_protocol(server, url):
    server.moved = {"/1.png": url}
    with pytest.raises(OSError, match=r"redirects to|not allowed"):
        fetch(f"{server.url}/1.png")
    assert [path for path, _ in server.asked] == ["/1.png"]


@pytest.mark.parametrize("by", ["named", "redirected"])
@pytest.mark.parametrize("url", ["http://169.254.169.254/latest/meta-data/", "http://cloud.example.org/1.png"])
def test_link_local_addresses_are_never_asked(server, names, by, url):
    server.moved = {"/1.png": url}
    with pytest.raises(OSError, match="link-local address, where no images are"):
        fetch(url if by == "named" else f"{server.url}/1.png")


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1:9/1.png", "http://intranet.example.org/1.png", "http://[::1]:9/", "http://mapped.example.org/"],
)
def test_a_manifest_on_the_internet_leads_into_no_private_network(names, url):
    manifest = "https://me:secret@photos.example.org/m.csv"
    with pytest.raises(OSError, match="is on the internet and leads to") as caught:
        fetch(url, named_by=manifest)
    assert "secret" not in str(caught.value)
    with pytest.raises(OSError, match="is on the internet and leads to"):  # a redirect is such a step, too
        http_module._check_step("https://photos.example.org/1.png", url)


def test_a_server_in_a_private_network_may_lead_to_another(server, names, png):
    server.files = {"/1.png": png("1")}
    assert fetch(f"{server.url}/1.png", named_by="http://intranet.example.org/m.csv") == png("1")
    server.moved = {"/2.png": f"{server.url}/1.png"}
    assert fetch(f"{server.url}/2.png") == png("1")
