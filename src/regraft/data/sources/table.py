"""Read a table of strings: CSV with any usual separator and encoding, Parquet, or JSON lines.

What is damaged is refused with the number of its line, so that no cell is taken for another.
"""

from __future__ import annotations

import importlib
import io
import json
import re
from array import array
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from regraft.data.sources.packed_rows import RowBuilder
from regraft.data.sources.urls import suffix_of
from regraft.data.strings import BLOCK
from regraft.errors import DataError, MissingExtraError
from regraft.spreadsheets import unguarded
from regraft.text import join_truncated, pluralize

#: Extensions of tables that may be manifests.
SUFFIXES = (".csv", ".tsv", ".parquet")
_SEPARATORS = {",": "a comma", ";": "a semicolon", "\t": "a tab", "|": "a vertical bar"}
#: Byte order marks and their encodings; the longer ones first.
_MARKS = {
    b"\xff\xfe\x00\x00": "utf-32", b"\x00\x00\xfe\xff": "utf-32", b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
}  # fmt: skip
_WINDOWS = "cp1252"
#: Characters of a line in a message, and bytes from which UTF-16 without a mark is recognized.
_EXCERPT, _SAMPLE = 80, 1000
#: Errors that a message lists.
MAX_ERRORS = 10
_EXCEL = re.compile(r'"?sep=(.)"?')


@dataclass(frozen=True)
class Cells:
    """A table of strings. Blank lines are empty rows; empty cells are empty strings.

    `lines` are the lines of the rows in the file; without them, rows are counted from `first`. `notes` are sentences.
    """

    columns: list[str]
    rows: Sequence[list[str]]
    lines: Sequence[int] | None = None
    first: int = 1
    notes: list[str] = field(default_factory=list)

    def place(self, row: int) -> str:
        """Where a row is, for messages."""
        return f"row {row + self.first}" if self.lines is None else f"line {self.lines[row]}"

    def column(self, number: int) -> list[str]:
        """The cells of a column, without spaces around them; empty cells are left out."""
        return [cell for row in self.rows if row and (cell := row[number].strip())]


def read_cells(name: str, data: bytes) -> Cells:
    """Read a table by its extension: .parquet, .jsonl (one object per line), .json (a list of objects), or else CSV.

    Raises `DataError` if the table is damaged.
    """
    readers = {".parquet": _read_parquet, ".jsonl": _read_json_lines, ".json": _read_json}
    return readers.get(suffix_of(name), _read_csv)(name, data)


def text_of(value: Any) -> str:
    """A cell's value as text: "" for a missing one, "1" for 1.0, which pandas makes of 1 where others are missing.

    Lists are JSON.
    """
    if isinstance(value, list):
        return json.dumps(value, ensure_ascii=False, default=str)
    if value is None or value != value:  # NaN is missing, too
        return ""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def import_parquet(what: str) -> Any:
    """Import `pyarrow.parquet`; if it is not installed, the error says that `what` needs it."""
    try:
        return importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise MissingExtraError(what, "parquet") from error


def _read_csv(name: str, data: bytes) -> Cells:
    text, encoding = _decode(name, data)
    text = text.removesuffix("\x1a")  # the end of a file in DOS
    if not text.strip():
        raise DataError(f"{name} is empty. Expected a first line with the names of the columns, such as path,label.")
    notes = []
    if encoding == _WINDOWS:
        example = next(line for line in text.splitlines() if not line.isascii()).strip()[:_EXCERPT]
        notes.append(f"{name} is not UTF-8, and was read as Windows-1252, for example {example!r}.")
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    start = next((i for i, line in enumerate(lines) if line.strip()), 0)
    separator = "\t" if suffix_of(name) == ".tsv" else ""
    if excel := _EXCEL.fullmatch(lines[start].strip()):  # Excel's own first line
        separator, start = excel[1], min(start + 1, len(lines) - 1)
    records = _Records(lines, start, separator or _separator(name, lines[start], start + 1))
    if records.errors:
        between = _SEPARATORS.get(records.separator, repr(records.separator))
        listed = join_truncated(records.errors, "\n  ", shown=MAX_ERRORS)
        raise DataError(
            f"{name} has {pluralize(len(records.errors), 'error')}:\n  {listed}\nExpected as many cells in each line "
            f"as in the header, with {between} between them; a cell that contains {between} or a quote is in quotes, "
            "and has two quotes for one."
        )
    return Cells(records.columns, records.rows, records.numbers, notes=notes)


class _Records:
    """The rows of a CSV text from line `start` on, and the errors in it."""

    def __init__(self, lines: list[str], start: int, separator: str) -> None:
        self.separator = separator
        self.numbers, self.errors, rows = array("q"), list[str](), RowBuilder()
        quoted, plain = rf' *"([^"]*(?:""[^"]*)*)" *(?={re.escape(separator)}|$)', rf'([^"{re.escape(separator)}]*)'
        self._cell = re.compile(rf"{quoted}|{plain}(?={re.escape(separator)}|$)")
        self._lines, self._next = lines, start
        self.columns = [unguarded(name) for name in self._read_record(1) or ()]
        while self.columns and not self.columns[-1].strip():
            self.columns.pop()
        while self._next < len(lines):
            number = self._next + 1
            cells = self._read_record(len(self.columns))
            if cells is None:
                continue
            if "'" in lines[number - 1]:
                cells = [unguarded(cell) for cell in cells]
            while len(cells) > len(self.columns) and not cells[-1].strip():
                cells.pop()
            if not any(cell.strip() for cell in cells):
                cells = []
            elif len(cells) != len(self.columns):
                counts = f"{pluralize(len(cells), 'cell')}, but {len(self.columns)} in the header"
                self.errors.append(f"line {number}: {counts}: {lines[number - 1][:_EXCERPT]}")
                cells = []
            elif cells == self.columns:
                self.errors.append(f"line {number}: the header again")
            rows.append(cells)
            self.numbers.append(number)
        self.rows = rows.rows()

    def _read_record(self, width: int) -> list[str] | None:
        """The cells of the next record; after an error None, and the next line is the next record."""
        first = self._next
        text, self._next = self._lines[first], first + 1
        if '"' not in text:
            return text.split(self.separator)
        cells = self._split(text)
        while cells is None and self._next < len(self._lines):
            # A quoted cell may have several lines, but a line that could be a row means that a quote is missing.
            line = self._lines[self._next]
            is_row = '"' not in line and line.count(self.separator) >= max(1, width - 1)
            if is_row or text.count('"') % 2 == 0:
                break
            text, self._next = f"{text}\n{line}", self._next + 1
            cells = self._split(text)
        within = (line for cell in cells or () for line in cell.split("\n")[1:])
        if cells is None or any(line.count(self.separator) >= max(1, width - 1) for line in within):
            self.errors.append(f"line {first + 1}: a stray quote: {self._lines[first][:_EXCERPT]}")
            self._next = first + 1
            return None
        return cells

    def _split(self, text: str) -> list[str] | None:
        """The cells of a record; None if a quote is neither around a cell nor doubled."""
        cells, at = list[str](), 0
        while found := self._cell.match(text, at):
            cells.append(found[2] if found[1] is None else found[1].replace('""', '"'))
            at = found.end() + 1
            if at > len(text):
                return cells
        return None


def _decode(name: str, data: bytes) -> tuple[str, str]:
    """The text and its encoding: by its byte order mark, else UTF-8, UTF-16 or Windows-1252."""
    if data.startswith(b"PK\x03\x04"):
        raise DataError(f"{name} is a workbook or a zip archive. Save the table as CSV in UTF-8.")
    encoding = next((encoding for mark, encoding in _MARKS.items() if data.startswith(mark)), "")
    for first, candidate in ((1, "utf-16-le"), (0, "utf-16-be")):  # with a zero byte beside each Latin letter
        half = data[first:_SAMPLE:2]
        if not encoding and 2 * half.count(0) > len(half):
            encoding = candidate
    for candidate in (encoding,) if encoding else ("utf-8", _WINDOWS):
        with suppress(UnicodeDecodeError):
            text = data.decode(candidate)
            # Any bytes are Windows-1252, which does not make them text.
            if candidate != _WINDOWS or not re.search(r"[\0-\x08\x0e-\x1f]", text):
                return text, candidate
    raise DataError(f"{name} is not text in UTF-8, UTF-16 or Windows-1252. Save the table as CSV in UTF-8.")


def _separator(name: str, header: str, number: int) -> str:
    unquoted = re.sub(r'"[^"]*"', "", header)
    found = [separator for separator in _SEPARATORS if separator in unquoted]
    if len(found) > 1:
        names = " and ".join(_SEPARATORS[separator] for separator in found)
        raise DataError(
            f"{name}, line {number}, has {names} between its cells: {header[:_EXCERPT]}. Expected one of them."
        )
    return found[0] if found else ","


def _read_parquet(name: str, data: bytes) -> Cells:
    parquet = import_parquet("Reading a Parquet manifest")
    try:
        file, rows = parquet.ParquetFile(io.BytesIO(data)), RowBuilder()
        for batch in file.iter_batches(BLOCK):
            columns = [[text_of(cell) for cell in column.to_pylist()] for column in batch.columns]
            for row in zip(*columns, strict=True):
                rows.append(list(row))
    except (OSError, ValueError) as error:  # pyarrow's ArrowInvalid is a ValueError
        raise DataError(f"{name} cannot be read as Parquet: {error}") from error
    return Cells(list(file.schema_arrow.names), rows.rows())


def _read_json_lines(name: str, data: bytes) -> Cells:
    """Read JSON lines; lists of names become JSON texts, and other lists and objects are ignored."""
    rows: list[dict[str, str]] = []
    try:
        for line in data.decode("utf-8-sig").split("\n"):
            values = json.loads(line) if line.strip() else {}
            rows.append({key: text_of(v) for key, v in values.items() if _is_cell(key, v)})
    except (ValueError, AttributeError, RecursionError) as error:
        raise DataError(
            f"{name}, line {len(rows) + 1}, cannot be read as a JSON object in UTF-8: {error}. "
            'Expected lines such as {"file_name": "1.jpg", "label": "cat"}.'
        ) from error
    return _of_records(rows)


def _read_json(name: str, data: bytes) -> Cells:
    """Read a JSON list of objects, such as Label Studio's JSON-MIN, as JSON lines are read."""
    try:
        records = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{name} cannot be read as JSON in UTF-8: {error}.") from error
    if not isinstance(records, list) or not records or not all(isinstance(record, dict) for record in records):
        raise DataError(
            f"{name} is no list of records and no annotations of COCO or Label Studio. Expected one of them, such as "
            '[{"path": "1.jpg", "label": ["cat", "dog"]}].'
        )
    rows = [{key: _cell_of(value) for key, value in record.items()} for record in records]
    return replace(_of_records(rows), lines=None)


def _of_records(rows: Sequence[dict[str, str]]) -> Cells:
    columns = list(dict.fromkeys(column for row in rows for column in row))
    cells = [[row.get(column, "") for column in columns] if row else [] for row in rows]
    return Cells(columns, cells, range(1, len(cells) + 1))


def _cell_of(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else text_of(value)


def _is_cell(key: str, value: Any) -> bool:
    """Whether a JSON value is that of a cell: no object, and of lists those of names, or of numbers called labels."""
    if not isinstance(value, list):
        return not isinstance(value, dict)
    kinds = {type(item) for item in value}
    return kinds <= {str} or (kinds == {int} and bool(re.search("label|class|categor|target", key.lower())))
