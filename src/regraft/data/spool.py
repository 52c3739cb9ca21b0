"""Temporary files for what can only be read from its beginning to its end.

Enters: bytes, piece by piece. Leaves: a file that is read at any place, and that goes when nobody refers to it any
more, at the latest when the process ends.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from collections.abc import Iterable, Iterator
from pathlib import Path

from regraft.errors import DataError

#: Bytes of one such file; nor may it take more than half of what is free.
LIMIT = 64 * 10**9


class Spool:
    """A temporary file.

    Args:
        pieces: What it holds, one after the other.
        name: Of what is unpacked, for messages.
        instead: What a person can do if it becomes too large, a sentence.

    Raises:
        DataError: It becomes larger than is allowed, or the disk is full.
    """

    def __init__(self, pieces: Iterable[bytes], name: str, instead: str) -> None:
        """Write all of it."""
        folder = tempfile.gettempdir()
        limit = min(LIMIT, shutil.disk_usage(folder).free // 2)
        handle, path = tempfile.mkstemp(prefix="regraft-", dir=folder)
        self.path = Path(path)
        self._gone = weakref.finalize(self, _remove, path)
        try:
            with os.fdopen(handle, "wb") as file:
                for piece in _within(pieces, limit, f"{name} unpacks to more than {limit / 1e9:.3g} GB", instead):
                    try:
                        file.write(piece)
                    except OSError as error:
                        fault = f"{name} cannot be unpacked to {folder}: {error.strerror}. {instead}"
                        raise DataError(fault) from error
        except BaseException:
            self._gone()
            raise


def _within(pieces: Iterable[bytes], limit: int, fault: str, instead: str) -> Iterator[bytes]:
    size = 0
    for piece in pieces:
        size += len(piece)
        if size > limit:
            raise DataError(f"{fault}, the most that is allowed here. {instead}")
        yield piece


def _remove(path: str) -> None:
    Path(path).unlink(missing_ok=True)
