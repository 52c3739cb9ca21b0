"""The pages' files: nothing from outside, nothing inline, and what a screen reader needs."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest
from served import Server

from regraft.serving.guard import CONTENT_SECURITY_POLICY
from regraft.serving.pages import page_files

PAGES = [name for name in page_files() if name.endswith(".html")]


class Elements(HTMLParser):
    """All elements of a page with their attributes, and the text in scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.inline = ""
        self._within = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        self._within = tag

    def handle_endtag(self, tag: str) -> None:
        self._within = ""

    def handle_data(self, data: str) -> None:
        if self._within in ("script", "style"):
            self.inline += data.strip()


@pytest.mark.parametrize("name", list(page_files()))
def test_nothing_comes_from_outside(name: str) -> None:
    text = page_files()[name].decode()
    links = re.findall(r"(?:https?:)?//[\w.-]+[^\s\"'`<>)]*", re.sub(r"^\s*//.*$", "", text, flags=re.MULTILINE))
    assert [
        link for link in links if not link.startswith(("http://www.w3.org/2000/svg", "http://127.0.0.1:8000"))
    ] == []
    assert "@import" not in text
    assert "innerHTML" not in text
    assert "eval(" not in text


@pytest.mark.parametrize("name", PAGES)
def test_pages_keep_to_the_policy_and_to_people(name: str) -> None:
    page = Elements(page_files()[name].decode())
    assert page.inline == ""
    by_id = {attributes["id"]: tag for tag, attributes in page.found if "id" in attributes}
    assert len(by_id) == sum("id" in attributes for _, attributes in page.found)
    labels = {attributes.get("for") for tag, attributes in page.found if tag == "label"}
    for tag, attributes in page.found:
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
            assert (attributes.get("src") or attributes.get("href") or "").startswith("/page/")
    assert [tag for tag, _ in page.found].count("h1") == 1
    assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in page.found


def test_the_server_gives_all_of_them(server: Server) -> None:
    for address in ("/", "/docs", *(f"/page/{name}" for name in page_files())):
        answer = server.client.get(address)
        assert answer.status_code == 200
        assert answer.headers["content-security-policy"] == CONTENT_SECURITY_POLICY
        assert answer.headers["x-content-type-options"] == "nosniff"
        again = server.client.get(address, headers={"If-None-Match": answer.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        for file in re.findall(r'(?:src|href)="(/page/[^"]+)"|from "\./([^"]+)"', answer.text):
            assert (file[0].rpartition("/")[2] or file[1]) in page_files()
    assert "unsafe" not in CONTENT_SECURITY_POLICY
    assert "http" not in CONTENT_SECURITY_POLICY
