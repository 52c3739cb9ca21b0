"""HTML and Markdown from the jinja2 templates in `templates/`.

Input: a template's name and plain values. Output: a page that needs no other file (no script; no font, style or image
from elsewhere), a fragment for a notebook, or a model card. Every value that is not `Markup` is escaped, and reduced to
one line without control characters and bidirectional marks.
"""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from regraft.report.model_score import score_of
from regraft.text import one_line, pluralize, shorten

_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "|": "&#124;", "`": "&#96;"}
#: Characters of markup; a colon only of an address or of an emoji's name.
_MARKDOWN = re.compile(r"(^\+|[\\*_{}\[\]#~@$^]|:(?=//|[\w+-]+:))")


#: What stands before each place of a document that only a person can fill; text from the data has no asterisks.
MARK = "**To be written by a person:**"


class Name(str):
    """Text from the data, which may contain anything; a sentence is a tuple of plain text and names."""

    __slots__ = ()


def render(template: str, **values: Any) -> str:
    """Render a template; `.html.jinja` templates can use `style` for the pages' CSS."""
    return _environment().get_template(template).render(**values)


def render_fragment(template: str, **values: Any) -> str:
    """Render the output of a notebook cell, with its CSS."""
    return render(f"notebook/{template}", css=Markup(_read("notebook.css")), **values)


def render_page(template: str, **values: Any) -> str:
    """Render a page, whose Content-Security-Policy allows its style and inline pictures only."""
    style = _read("page.css")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return render(template, css=Markup(style), digest=digest, **values)


def bidi(text: str, width: int = 160) -> Markup:
    """Isolate a name from the data, so that right-to-left text does not reorder the text around it."""
    return Markup("<bdi>{}</bdi>").format(short(text, width))


def file_name(path: str) -> Markup:
    """Return a path that a narrow column breaks after a slash rather than anywhere."""
    words = [escape(word) if word.isascii() else bidi(word) for word in short(path, 120).split("/")]
    return Markup('<bdi dir="ltr">{}</bdi>').format(Markup("/<wbr>").join(words))


def code(text: str) -> Markup:
    """Return a text whose parts between backquotes are code."""
    pieces = short(text, 600).split("`")
    return Markup("").join(Markup("<code>{}</code>").format(p) if i % 2 else p for i, p in enumerate(pieces))


def sentence(pieces: tuple[str, ...]) -> Markup:
    """Join a sentence whose names come from the data."""
    return Markup("").join(bidi(piece, 60) if isinstance(piece, Name) else code(piece) for piece in pieces)


def image(source: str, alt: str) -> Markup:
    """Return a picture in a square frame; `source` is a data URI."""
    return Markup('<img class="frame" src="{}" alt="{}" decoding="async">').format(source, short(alt, 160))


def short(text: str, width: int = 600) -> str:
    """Return one line of limited width."""
    return shorten(one_line(str(text)), width)


def percent(value: float, digits: int = 1) -> str:
    """Write a share as `90.1 %`, with a space at which no line breaks."""
    return f"{100 * value:.{digits}f}\N{NO-BREAK SPACE}%"


def interval(bounds: tuple[float, float]) -> str:
    """Write an interval of shares as `87.0 to 92.6`, in percent."""
    return f"{100 * bounds[0]:.1f} to {100 * bounds[1]:.1f}"


def with_interval(value: float, bounds: tuple[float, float]) -> str:
    """Write a share and its interval as `90.1 % (87.0 to 92.6)`."""
    return f"{percent(value)} ({interval(bounds)})"


def escape_markdown(text: str, width: int = 80) -> Markup:
    """Return text from the data as Markdown without markup, link or mention, also for tables, up to `width` columns."""
    return _inert(short(text, width).strip())


def markdown_sentence(text: str | tuple[str, ...]) -> Markup:
    """Join a sentence as Markdown: names are text, and what is between backquotes in the other pieces is code."""
    pieces = (text,) if isinstance(text, str) else text
    return Markup("").join(
        escape_markdown(piece) if isinstance(piece, Name) else _markdown_code(short(piece)) for piece in pieces
    )


def ask(what: str) -> Markup:
    """Mark a place of a document that only a person can fill; `what` is Markdown."""
    return Markup(f"> {MARK} {what}")


def _inert(text: str) -> Markup:
    marked = _MARKDOWN.sub(r"\\\1", text).replace("www.", "www\\.")
    return Markup("".join(_ENTITIES.get(character, character) for character in marked))


def _markdown_code(text: str) -> Markup:
    pieces = text.split("`")
    last = len(pieces) - 1
    return Markup("").join(
        _inert(piece) if i % 2 == 0
        else Markup("`{}`").format(Markup(piece)) if piece.strip() and i < last
        else _inert(f"`{piece}`" if i < last else f"`{piece}")
        for i, piece in enumerate(pieces)
    )  # fmt: skip


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("regraft.report"), autoescape=True, undefined=StrictUndefined, finalize=_as_one_line,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {
        "bidi": bidi, "file_name": file_name, "code": code, "sentence": sentence, "short": short, "percent": percent,
        "interval": interval, "count": "{:,}".format, "markdown": escape_markdown,
        "markdown_sentence": markdown_sentence,
    }  # fmt: skip
    environment.globals |= {"ask": ask, "image": image, "pluralize": pluralize, "score_of": score_of, "zip": zip}
    return environment


def _as_one_line(value: Any) -> Any:
    if isinstance(value, Markup):
        return value
    text = "" if value is None else str(value)
    return text if text.isascii() and text.isprintable() else one_line(text)


@cache
def _read(name: str) -> str:
    return resources.files("regraft.report").joinpath(name).read_text(encoding="utf-8")
