"""Write files atomically: a reader sees the old content or the new content, never a part of it.

A process that is killed while it writes leaves the old file. The temporary file that may remain ends in
`.partial` and is never read.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
import secrets
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regraft.spreadsheets import guarded_row

if TYPE_CHECKING:
    from _typeshed import SupportsWrite

#: Bytes of its name that a temporary file has: file systems allow 255 in all.
_NAME_BYTES = 200


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder; it replaces `path` on success and is deleted on an exception."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{_start_of_name(path)}.{secrets.token_hex(8)}.partial")
    temporary.touch(exist_ok=False)  # not mkstemp: only the owner could read its files
    mode = temporary.stat().st_mode
    try:
        yield temporary
        temporary.chmod(mode)  # some writers replace the file by one with other mode bits
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except Exception as error:
        number = error.errno if isinstance(error, OSError) else _errno_of_rust(error)
        if number is None:
            raise
        raise OSError(number, os.strerror(number), str(path)) from error  # such as a full disk
    finally:
        temporary.unlink(missing_ok=True)


def _start_of_name(path: Path) -> str:
    """The name, or as much of it as leaves room for what a temporary file adds to it."""
    return os.fsencode(path.name)[:_NAME_BYTES].decode(errors="ignore")


def _errno_of_rust(error: Exception) -> int | None:
    """The number of a system error that safetensors, which is written in Rust, raises as an exception of its own."""
    found = re.search(r"\(os error (\d+)\)", str(error))
    return int(found[1]) if found else None


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, value: Any) -> None:
    """Write JSON; NaN and infinities, which are not JSON, raise `ValueError`."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a CSV file with a header line, row by row; `regraft.spreadsheets` reads it."""
    with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        _write_rows(file, columns, rows)


def csv_text(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """CSV text with a header line."""
    text = io.StringIO()
    _write_rows(text, columns, rows)
    return text.getvalue()


def csv_sha256(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """The SHA-256 of the file that `write_csv` writes, in hexadecimal, without the text in memory."""
    digest = hashlib.sha256()

    class Digest:
        def write(self, text: str) -> None:
            digest.update(text.encode(errors="surrogateescape"))

    _write_rows(Digest(), columns, rows)
    return digest.hexdigest()


def _write_rows(file: SupportsWrite[str], columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    plain = csv.writer(file, lineterminator="\n")
    quoted = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_ALL)  # csv does not quote a lone \r
    for row in map(guarded_row, chain([columns], rows)):
        (quoted if any(isinstance(cell, str) and "\r" in cell for cell in row) else plain).writerow(row)


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
