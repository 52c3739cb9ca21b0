"""A parser for the tests of pages and notebook fragments."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from itertools import pairwise

VOID = {"img", "link", "meta", "wbr"}
FORBIDDEN = {"script", "iframe", "object", "embed", "form", "base", "audio", "video", "foreignobject", "animate"}


@dataclass
class Element:
    tag: str
    attributes: dict[str, str]
    text: str = ""


@dataclass
class Page(HTMLParser):
    """The elements of a page in order, each with the text in it and below it; badly nested elements fail."""

    source: str
    elements: list[Element] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[Element] = []
        self.feed(self.source)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({key for key, _ in attrs}) == len(attrs)
        element = Element(tag, {key: value or "" for key, value in attrs})
        self.elements.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop().tag == tag

    def handle_data(self, data: str) -> None:
        for element in self.open:
            element.text += data.replace("\xa0", " ")

    def handle_comment(self, data: str) -> None:
        raise AssertionError(data)

    def all(self, tag: str, class_: str = "") -> list[Element]:
        return [
            e for e in self.elements if e.tag == tag and {*class_.split()} <= {*e.attributes.get("class", "").split()}
        ]

    def one(self, tag: str, class_: str = "") -> Element:
        (element,) = self.all(tag, class_)
        return element

    def section(self, key: str) -> str:
        """The text of a section, with single spaces."""
        (text,) = (e.text for e in self.all("section") if e.attributes["id"] == key)
        return " ".join(text.split())

    @property
    def shape(self) -> list[tuple[str, tuple[str, ...]]]:
        """Elements and the names of their attributes, without those by which names are laid out."""
        return [(e.tag, tuple(e.attributes)) for e in self.elements if e.tag not in ("bdi", "wbr")]


def check_is_self_contained(page: Page) -> None:
    """No script, no style attribute, no event handler, nothing loaded from elsewhere."""
    assert not {e.tag for e in page.elements} & FORBIDDEN
    ids = [e.attributes["id"] for e in page.elements if "id" in e.attributes]
    assert len(set(ids)) == len(ids)
    for element in page.elements:
        attributes = element.attributes
        assert not [key for key in attributes if key.startswith("on") or key in ("style", "srcset", "action")]
        if "src" in attributes:
            assert element.tag == "img"
            assert re.fullmatch(r"data:image/jpeg;base64,[A-Za-z0-9+/=]+", attributes["src"])
        if "href" in attributes:
            if element.tag == "link":
                assert attributes["href"] == "data:,"
            elif element.tag == "image":
                assert attributes["href"].startswith("data:image/png;base64,")
            else:
                assert attributes["href"].startswith("#")
                assert attributes["href"][1:] in ids
        for target in re.findall(r"url\((.*?)\)", " ".join(attributes.values())):
            assert target[1:] in ids or element.tag == "meta"
    css = page.one("style").text
    assert "url(" not in css
    assert "@import" not in css


def check_is_accessible(page: Page) -> None:
    """Headings in order, a description of each picture and chart, headers and captions of tables, keyboard access."""
    assert page.one("html").attributes["lang"] == "en"
    for tag in ("title", "main", "h1", "footer"):
        page.one(tag)
    ids = [e.attributes["id"] for e in page.elements if "id" in e.attributes]
    assert all(e.attributes["aria-labelledby"] in ids for e in page.elements if "aria-labelledby" in e.attributes)
    levels = [int(e.tag[1]) for e in page.elements if re.fullmatch("h[1-6]", e.tag)]
    assert levels[0] == 1
    assert all(b <= a + 1 for a, b in pairwise(levels))
    assert all(e.attributes["alt"] for e in page.all("img"))
    assert all(e.attributes["scope"] in ("col", "row") for e in page.all("th"))
    assert len(page.all("caption")) == len(page.all("table"))
    assert all(e.attributes.get("aria-hidden") == "true" or e.attributes["aria-label"] for e in page.all("svg"))
    assert all(e.attributes["tabindex"] == "0" for e in page.elements if "scroll" in e.attributes.get("class", ""))
