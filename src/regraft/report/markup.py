"""Markup of pages that need nothing else: no script, and no font, style or image from elsewhere.

Enters: text of any kind. Leaves: HTML in which whatever is not `Html` is escaped.
"""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Iterable, Sequence
from importlib import resources

from regraft.evaluation.names import one_line, shorten


class Html(str):
    """Markup. Only `tag` and `joined` make it of text, so that no text gets into the page as it is."""

    __slots__ = ()


#: A new line, so that the file can be read.
LINE = Html("\n")
#: Elements that hold nothing, and have no end.
_EMPTY = frozenset({"img", "link", "meta", "wbr"})


def tag(name: str, /, *inside: str, **attributes: str | float | None) -> Html:
    """An element; an attribute's trailing `_` is dropped, others become `-`; None leaves it out."""
    pairs = ((key.rstrip("_").replace("_", "-"), value) for key, value in attributes.items() if value is not None)
    opening = name + "".join(f' {key}="{_escaped(str(value))}"' for key, value in pairs)
    return Html(f"<{opening}>" if name in _EMPTY else f"<{opening}>{joined(*inside)}</{name}>")


def joined(*inside: str) -> Html:
    """One after the other."""
    return Html("".join(map(_escaped, inside)))


def _escaped(text: str) -> str:
    if isinstance(text, Html):
        return text
    return html.escape(text if text.isascii() and text.isprintable() else one_line(text))


def list_of(items: Iterable[str], *, ordered: bool = False, class_: str | None = None) -> Html:
    """A list with an entry for each item."""
    # The role is lost to some screen readers where the style shows no bullets.
    name = "ol" if ordered else "ul"
    return joined(LINE, tag(name, *(tag("li", item) for item in items), class_=class_, role="list"))


def table_of(head: Sequence[str], rows: Iterable[Sequence[str]], caption: str, class_: str | None = None) -> Html:
    """Of each row the first cell is its header."""
    columns = tag("tr", *(tag("th", cell, scope="col") for cell in head))
    body = [
        joined(LINE, tag("tr", tag("th", first, scope="row"), *(tag("td", cell) for cell in rest)))
        for first, *rest in rows
    ]
    table = tag("table", tag("caption", caption), tag("thead", columns), tag("tbody", *body), class_=class_)
    # What is scrolled must be reached by the keyboard.
    return joined(LINE, tag("div", table, class_="scroll", role="region", aria_label=caption, tabindex=0))


def fold(summary: str, *inside: str) -> Html:
    """What is seen when the summary is clicked."""
    return joined(LINE, tag("details", tag("summary", summary), *inside))


def bidi(text: str, width: int = 160) -> Html:
    """A name from the data; one that is written from right to left leaves the text around it in its order."""
    return tag("bdi", shorten(one_line(text), width))


def file_name(path: str) -> Html:
    """The name of a file; a narrow column breaks it after a slash rather than anywhere."""
    words = shorten(one_line(path), 120).split("/")
    pieces = [piece for word in words for piece in ("/", tag("wbr"), word if word.isascii() else tag("bdi", word))]
    return tag("bdi", *pieces[2:], dir="ltr")


def image_of(source: str, alt: str) -> Html:
    """A picture in a square frame."""
    return tag("img", class_="frame", src=source, alt=shorten(one_line(alt), 160), decoding="async")


def document(title: str, body: Html) -> str:
    """A page with the one style."""
    return f"<!doctype html>\n{tag('html', _head(title), LINE, body, lang='en')}\n"


def _head(title: str) -> Html:
    style = resources.files("regraft.report").joinpath("page.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    return tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", name="referrer", content="no-referrer"),
        tag("title", title),
        tag("link", rel="icon", href="data:,"),  # or browsers ask the server for one
        tag("style", Html(style)),
    )
