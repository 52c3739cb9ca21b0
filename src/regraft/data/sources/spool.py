"""Write a stream to a temporary file, which is deleted when nothing refers to it or the process exits."""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from collections.abc import Iterable
from pathlib import Path

from regraft.errors import DataError

#: Size limit of a file in bytes; it may also take at most half of the free disk space.
LIMIT = 64 * 10**9


class Spool:
    """A temporary file with these chunks; `DataError` with the advice, a sentence, if too large or the disk is full."""

    def __init__(self, chunks: Iterable[bytes], name: str, advice: str) -> None:
        folder = tempfile.gettempdir()
        limit, size = min(LIMIT, shutil.disk_usage(folder).free // 2), 0
        handle, path = tempfile.mkstemp(prefix="regraft-", dir=folder)
        self.path = Path(path)
        self._delete = weakref.finalize(self, _delete, path)
        try:
            with os.fdopen(handle, "wb") as file:
                for chunk in chunks:
                    size += len(chunk)
                    if size > limit:
                        raise DataError(f"{name} unpacks to more than the {limit / 1e9:.3g} GB allowed here. {advice}")
                    try:
                        file.write(chunk)
                    except OSError as error:
                        message = f"{name} cannot be unpacked to {folder}: {error.strerror}. {advice}"
                        raise DataError(message) from error
        except BaseException:
            self._delete()
            raise


def _delete(path: str) -> None:
    Path(path).unlink(missing_ok=True)
