"""CSV files whose texts no spreadsheet runs as formulas, and their rows as they were.

Files and classes are named by whoever made the data, and a spreadsheet calculates a cell that begins with `=`, also
one that starts a program or sends the table to an address. Such a text is written with an apostrophe before it, which
reading removes (OWASP, CSV Injection). Numbers stay as they are.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator
from typing import Any

#: Beginnings of a formula, with their wide forms; further apostrophes before one are of the text itself.
_FORMULA = re.compile("'*[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
_NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?")
_GUARD = "'"


def guarded(text: str) -> str:
    """The text as a cell: with an apostrophe before what a spreadsheet would calculate, unless it is a number."""
    return _GUARD + text if _FORMULA.match(text) and not _NUMBER.fullmatch(text) else text


def unguarded(cell: str) -> str:
    """The text of a cell that `guarded` returned."""
    return cell[1:] if cell.startswith(_GUARD) and _FORMULA.match(cell) else cell


def guarded_row(row: Iterable[Any]) -> list[Any]:
    """A row whose texts are `guarded`; other values stay."""
    return [guarded(cell) if isinstance(cell, str) else cell for cell in row]


def read_rows(lines: Iterable[str]) -> Iterator[list[str]]:
    """Yield the rows of a CSV file that regraft wrote, the header first; raises `csv.Error`."""
    for row in csv.reader(lines):
        yield [unguarded(cell) for cell in row]


def read_records(lines: Iterable[str]) -> Iterator[dict[str, str]]:
    """Yield the rows of a CSV file that regraft wrote by the names of its columns, as `csv.DictReader` does."""
    for record in csv.DictReader(lines):
        yield {_text(name): _text(cell) for name, cell in record.items()}


def _text(cell: Any) -> Any:
    """The text of a cell; a cell that is missing, and those without a column, as `csv.DictReader` has them."""
    return unguarded(cell) if isinstance(cell, str) else cell
