"""What a reader of Markdown finds in a document: its parts, headings, texts and tables."""

from __future__ import annotations

import itertools

from markdown_it import MarkdownIt
from markdown_it.token import Token

MARKDOWN = MarkdownIt("gfm-like", {"linkify": False})


def body_of(document: str) -> str:
    """The document without front matter."""
    return document.split("---\n", 2)[2] if document.startswith("---\n") else document


def tokens_of(document: str) -> list[Token]:
    """The blocks of a document without front matter."""
    return MARKDOWN.parse(body_of(document))


def kinds(document: str) -> list[str]:
    """Every block and inline piece but the text itself."""
    tokens = tokens_of(document)
    inline = [child.type for token in tokens for child in token.children or ()]
    return [token.type for token in tokens] + [kind for kind in inline if kind not in ("text", "text_special")]


def texts(document: str) -> list[str]:
    """The text of every block."""
    return [_text(token) for token in tokens_of(document) if token.children]


def headings(document: str) -> list[str]:
    """The headings, with their level as in Markdown: `## Uses`."""
    tokens = tokens_of(document)
    pairs = itertools.pairwise(tokens)
    return [f"{token.markup} {_text(text)}" for token, text in pairs if token.type == "heading_open"]


def table_rows(document: str) -> list[tuple[str, ...]]:
    """The cells of every row of every table."""
    tokens, rows = tokens_of(document), list[tuple[str, ...]]()
    for token, text in itertools.pairwise(tokens):
        if token.type == "tr_open":
            rows.append(())
        elif token.type in ("th_open", "td_open"):
            rows[-1] += (_text(text),)
    return rows


def _text(token: Token) -> str:
    return "".join(child.content for child in token.children or ())
