"""Class names as text to show.

Enters: a class name, which is a folder's name and may hold anything. Leaves: one line of a known width.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

_REPLACED = {"Cc": " ", "Zl": " ", "Zp": " ", "Cf": "", "Cs": "\ufffd"}


def one_line(text: str) -> str:
    """Compose accents, make controls and line ends spaces, drop invisible marks, replace lone surrogates."""
    text = unicodedata.normalize("NFC", text)
    return "".join(_REPLACED.get(unicodedata.category(character), character) for character in text)


def display_width(text: str) -> int:
    """Columns that one line takes in a fixed-width font: 2 for wide characters, 0 for combining marks.

    Source: Unicode Standard Annex 11, East Asian Width.
    """
    return sum(_columns(character) for character in text)


def shorten(text: str, width: int) -> str:
    """Put an ellipsis for the middle of a text wider than `width`; both ends tell similar names apart."""
    if display_width(text) <= width:
        return text
    tail = (width - 1) // 3
    return _start(text, width - 1 - tail).rstrip() + "…" + _start(reversed(text), tail)[::-1].lstrip()


def _columns(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _start(characters: Iterable[str], width: int) -> str:
    taken = ""
    for character in characters:
        width -= _columns(character)
        if width < 0:
            break
        taken += character
    return taken
