"""The pages load nothing from elsewhere, have no inline code, and are accessible."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import httpx
import pytest
from served import Server

from regraft.serving.http.middleware import CONTENT_SECURITY_POLICY
from regraft.serving.http.static import page_files

PAGES = [name for name in page_files() if name.endswith(".html")]


class Elements(HTMLParser):
    """All elements of a page with their attributes, and the text in scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.inline = ""
        self._within = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._within = tag

    def handle_endtag(self, tag: str) -> None:
        self._within = ""

    def handle_data(self, data: str) -> None:
        if self._within in ("script", "style"):
            self.inline += data.strip()


@pytest.mark.parametrize("name", list(page_files()))
def test_files_load_nothing_from_elsewhere(name: str) -> None:
    text = page_files()[name].decode()
    links = re.findall(r"(?:https?:)?//[\w.-]+[^\s\"'`<>)]*", re.sub(r"^\s*//.*$", "", text, flags=re.MULTILINE))
    assert [
        link for link in links if not link.startswith(("http://www.w3.org/2000/svg", "http://127.0.0.1:8000"))
    ] == []
    assert "@import" not in text
    assert "innerHTML" not in text
    assert "eval(" not in text


@pytest.mark.parametrize("name", PAGES)
def test_pages_follow_the_policy_and_are_accessible(name: str) -> None:
    page = Elements(page_files()[name].decode())
    assert page.inline == ""
    by_id = {attributes["id"]: tag for tag, attributes in page.elements if "id" in attributes}
    assert len(by_id) == sum("id" in attributes for _, attributes in page.elements)
    labels = {attributes.get("for") for tag, attributes in page.elements if tag == "label"}
    for tag, attributes in page.elements:
        assert not any(key.startswith("on") or key == "style" for key in attributes), tag
        if tag == "html":
            assert attributes["lang"] == "en"
        if tag == "img":
            assert "alt" in attributes
        if tag in ("input", "select") and attributes.get("type") != "range":
            assert attributes.get("id") in labels or "aria-label" in attributes
        for key in ("aria-labelledby", "for"):
            assert key not in attributes or attributes[key] in by_id
        if tag in ("script", "link"):
            assert (attributes.get("src") or attributes.get("href") or "").startswith("page/")
    assert [tag for tag, _ in page.elements].count("h1") == 1
    assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in page.elements


def test_all_files_are_served(server: Server) -> None:
    for address in ("/", "/docs", *(f"/page/{name}" for name in page_files())):
        answer = server.client.get(address)
        assert answer.status_code == 200
        assert answer.headers["content-security-policy"] == CONTENT_SECURITY_POLICY
        assert answer.headers["x-content-type-options"] == "nosniff"
        again = server.client.get(address, headers={"If-None-Match": answer.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        for file in re.findall(r'(?:src|href)="(page/[^"]+)"|from "\./([^"]+)"', answer.text):
            assert (file[0].rpartition("/")[2] or file[1]) in page_files()
    assert "unsafe" not in CONTENT_SECURITY_POLICY
    assert "http" not in CONTENT_SECURITY_POLICY


def test_other_files_are_not_served(server: Server, run: Path) -> None:
    for address in (
        "/page/../app.py",
        "/page/..%2fapp.py",
        "/page/app.py",
        "/models/..%2f..%2fsquares/card",
        f"/{run}",
    ):
        assert server.client.get(address).status_code == 404


def links(text: str) -> list[str]:
    return [link for link in re.findall(r'(?:src|href)="([^"]+)"', text) if not link.startswith("#")]


@pytest.mark.parametrize("address", ["", "docs"])
@pytest.mark.parametrize("keeps_prefix", [True, False])
@pytest.mark.parametrize("prefix", ["/classify", "/a/b"])
def test_links_work_at_the_path_of_a_proxy(
    server: Server, proxied: Server, address: str, keeps_prefix: bool, prefix: str
) -> None:
    """Without a root path, a proxy that removes its prefix works as well."""
    behind = proxied if prefix == "/a/b" else server
    if behind is server and keeps_prefix:
        return

    def get(url: httpx.URL) -> httpx.Response:
        path = url.raw_path.decode()
        assert path.startswith(f"{prefix}/"), path
        return behind.client.get(path if keeps_prefix else path.removeprefix(prefix))

    page = httpx.URL(f"https://example.org{prefix}/{address}")
    found = links(get(page).text)
    assert len(found) >= 4
    for link in found:
        assert get(page.join(link)).status_code == 200, link


def test_page_at_the_root_path_without_a_slash(proxied: Server) -> None:
    page = httpx.URL("https://example.org/a/b")
    for link in links(proxied.client.get("/a/b").text):
        assert proxied.client.get(page.join(link).raw_path.decode()).status_code == 200, link


def test_scripts_find_the_server_by_their_own_address() -> None:
    for name, content in page_files().items():
        if name.endswith(".js"):
            assert not re.search(r"""["'`]/(?!/)[a-z]""", content.decode()), name
    assert "new URL(address, ROOT)" in page_files()["api.js"].decode()
