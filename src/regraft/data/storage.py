"""Where images lie: a folder now, and whatever else keeps files under names.

Enters: a path. Leaves: a `Storage`, whose directories are walked in the same way whatever it is, and whose files are
read by their names: relative, with forward slashes.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from regraft.data.decode import ImageSource
from regraft.errors import DataError

_JUNK_FILES = frozenset({"thumbs.db", "desktop.ini"})
_JUNK_FOLDERS = frozenset({"__macosx", "@eadir", "$recycle.bin"})

#: Seconds after a change in which a second one might leave no trace in a file's times.
_SETTLED = 2.0


class Directory(Protocol):
    """A directory of a storage; hidden and system files are left out of what it lists, names are sorted."""

    @property
    def name(self) -> str:
        """Its own."""

    @property
    def folders(self) -> list[Directory]:
        """Directly in it."""

    @property
    def files(self) -> list[str]:
        """Names, from the storage's root, of the files directly in it."""

    @property
    def files_below(self) -> list[str]:
        """Names, from the storage's root, of all files in it and in the folders below."""


class Storage(Protocol):
    """Files under names; safe to be read from several threads."""

    @property
    def top(self) -> Directory:
        """Its root."""

    def read(self, name: str) -> bytes:
        """All bytes of a file.

        Raises:
            OSError: It cannot be read.
            ValueError: The name can be none.
        """

    def source(self, name: str) -> ImageSource:
        """What the decoder reads of a file: its path where it has one, else its bytes."""

    def stamp(self, name: str) -> tuple[int, ...] | None:
        """Numbers that differ when the content does; None where that cannot be told.

        Raises:
            OSError: There is no such file.
        """


def is_junk(name: str, *, folder: bool) -> bool:
    """Whether a file or folder of this name is hidden, or the system's own."""
    return name.startswith(".") or name.lower() in (_JUNK_FOLDERS if folder else _JUNK_FILES)


class Folder:
    """A folder on disk; symbolic links are followed, but not in circles."""

    def __init__(self, root: Path) -> None:
        """Nothing is read yet."""
        self.root = root

    @property
    def top(self) -> Directory:
        """The folder."""
        return _DiskDirectory(self.root, self.root)

    def read(self, name: str) -> bytes:
        """All bytes of a file; a name may also be an absolute path."""
        return (self.root / name).read_bytes()

    def source(self, name: str) -> ImageSource:
        """Its path."""
        return self.root / name

    def stamp(self, name: str) -> tuple[int, ...] | None:
        """Size, times of the last change of content and of anything, number of the file; None if it is quite new."""
        stat = os.stat(os.path.join(self.root, name))
        if time.time() - stat.st_ctime < _SETTLED:
            return None
        return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino, stat.st_dev


class _DiskDirectory:
    def __init__(self, root: Path, path: Path) -> None:
        self.root, self.path, self.name = root, path, path.name

    @property
    def folders(self) -> list[Directory]:
        children = (child for child in self.path.iterdir() if child.is_dir() and not is_junk(child.name, folder=True))
        return [_DiskDirectory(self.root, child) for child in sorted(children)]

    @property
    def files(self) -> list[str]:
        children = (
            child for child in self.path.iterdir() if not child.is_dir() and not is_junk(child.name, folder=False)
        )
        return [self._relative(child) for child in sorted(children)]

    @property
    def files_below(self) -> list[str]:
        return sorted(self._relative(file) for file in self._walk())

    def _walk(self) -> Iterator[str]:
        seen = set(map(str, Path(os.path.realpath(self.path)).parents))  # links may lead back up
        for parent, names, files in os.walk(self.path, followlinks=True, onerror=_raise):
            real = os.path.realpath(parent)
            if real in seen:
                names.clear()
                continue
            seen.add(real)
            names[:] = sorted(name for name in names if not is_junk(name, folder=True))
            yield from (os.path.join(parent, name) for name in files if not is_junk(name, folder=False))

    def _relative(self, path: Path | str) -> str:
        text, prefix = str(path), f"{self.root}{os.sep}"
        # Path.relative_to would take seconds for 60,000 files.
        name = text[len(prefix) :] if text.startswith(prefix) else os.path.relpath(text, self.root)
        name = name.replace(os.sep, "/")
        try:
            name.encode()
        except UnicodeEncodeError as error:
            raise DataError(
                f"{os.fsencode(path)!r} has a name that is not UTF-8; no manifest could hold it. Rename it."
            ) from error
        return name


def _raise(error: OSError) -> None:
    raise error
