"""A console on which texts from data cannot command the terminal.

Names of files and classes come from whoever made the data. A terminal obeys the control characters in what it shows:
they move the cursor, hide lines, set the title or the clipboard.
"""

from __future__ import annotations

import re
from typing import Any

from rich.console import Console
from rich.text import Text

#: Control characters but line end and tab, and marks that reorder the text around them (Unicode, UAX 9).
_COMMANDS = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """The text with control characters, and marks that reorder it, as Python writes them."""
    return _COMMANDS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


class PrintableConsole(Console):
    """A console of rich whose texts are `printable`; styles and tables are rich's own."""

    def render_str(self, text: str, **options: Any) -> Text:
        """Render a text with markup."""
        return super().render_str(printable(text), **options)
