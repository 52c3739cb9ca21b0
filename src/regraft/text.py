"""Format names, numbers and lists for people.

A class name is the name of a folder and may contain any character, so tables print it on one line of known width.
"""

from __future__ import annotations

import difflib
import shlex
import unicodedata
from collections.abc import Iterable

#: Columns of a name in a table of plain text; folders may have names of 255 characters.
NAME_WIDTH = 60
_REPLACED = {"Cc": " ", "Zl": " ", "Zp": " ", "Cf": "", "Cs": "\ufffd"}


def nearest(name: str, known: Iterable[str]) -> list[str]:
    """The known names that are most similar to `name`, best first, at most three."""
    return difflib.get_close_matches(name, list(known), n=3, cutoff=0.6)


def encodable(text: str) -> str:
    """The text with lone surrogates, which stand for invalid bytes in file names, as escapes."""
    return text.encode(errors="backslashreplace").decode()


def one_line(text: str) -> str:
    """Normalize to NFC, replace control characters and line ends by spaces, drop format characters.

    Lone surrogates, which cannot be encoded, become U+FFFD.
    """
    text = unicodedata.normalize("NFC", text)
    return "".join(_REPLACED.get(unicodedata.category(character), character) for character in text)


def in_shell(word: object) -> str:
    """A path or name as a word of a command that a message proposes: quoted where a shell would read it otherwise."""
    return shlex.quote(str(word))


def display_width(text: str) -> int:
    """Width of a line in columns of a fixed-width font: 2 for wide characters, 0 for combining marks.

    Source: Unicode Standard Annex 11, East Asian Width.
    """
    return sum(_columns(character) for character in text)


def shorten(text: str, width: int) -> str:
    """Replace the middle of a text by an ellipsis so that it fits `width`; similar names often differ at the end."""
    if display_width(text) <= width:
        return text
    tail = (width - 1) // 3
    return _start(text, width - 1 - tail).rstrip() + "…" + _start(reversed(text), tail)[::-1].lstrip()


def _columns(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _start(characters: Iterable[str], width: int) -> str:
    start = ""
    for character in characters:
        width -= _columns(character)
        if width < 0:
            break
        start += character
    return start


def pluralize(number: int, one: str, many: str = "") -> str:
    """A number with its noun, such as `3 images`; the plural is `many`, or `one` with an s."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def join_truncated(items: Iterable[str], separator: str = ", ", *, shown: int = 10) -> str:
    """Join the first `shown` items and count the others, as in `a, b, and 3 more`."""
    items = list(items)
    rest = [f"and {len(items) - shown:,} more"] if len(items) > shown else []
    return separator.join([*items[:shown], *rest])
