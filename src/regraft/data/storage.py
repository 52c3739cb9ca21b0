"""Where images lie: a folder, and whatever else keeps files under names.

Enters: a path. Leaves: a `Storage`, whose directories are walked in the same way whatever it is, and whose files are
read by their names: relative, with forward slashes.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

from regraft.data.decode import ImageSource
from regraft.errors import DataError

_JUNK_FILES = frozenset({"thumbs.db", "desktop.ini"})
_JUNK_FOLDERS = frozenset({"__macosx", "@eadir", "$recycle.bin"})

#: Bytes of the largest file that is read out of anything but a folder; an image of `MAX_PIXELS` fits, uncompressed.
FILE_LIMIT = 512 * 2**20

#: Seconds after a change in which a second one might leave no trace in a file's times.
SETTLED = 2.0


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

    def exists(self, name: str) -> bool:
        """Whether there is a file of this name."""

    def read(self, name: str) -> bytes:
        """All bytes of a file.

        Raises:
            OSError: It cannot be read.
            ValueError: The name can be none.
        """

    def source(self, name: str) -> ImageSource:
        """What the decoder reads of a file: its path where it has one, else its bytes.

        Raises:
            OSError: It has no path, and its bytes cannot be read.
            ValueError: The name can be none.
        """

    def stamp(self, name: str) -> tuple[int, ...] | None:
        """Numbers that differ when the content does; None where that cannot be told.

        Raises:
            OSError: There is no such file.
        """


class Listing:
    """A directory of a storage that can list all its files at once."""

    def __init__(self, name: str = "") -> None:
        """Nothing is in it yet."""
        self.name = name
        self._folders: dict[str, Listing] = {}
        self._files: list[str] = []

    @classmethod
    def of(cls, files: Iterable[str], folders: Iterable[str] = ()) -> Listing:
        """The root of these files, and of folders that may be empty; hidden and system files are left out."""
        top = cls()
        for folder in folders:
            top._folder(folder.split("/"))
        for file in files:
            *parents, name = file.split("/")
            if not is_junk(name, folder=False) and (parent := top._folder(parents)) is not None:
                parent._files.append(file)
        return top

    @property
    def folders(self) -> list[Directory]:
        """Directly in it."""
        return [self._folders[name] for name in sorted(self._folders)]

    @property
    def files(self) -> list[str]:
        """Directly in it."""
        return sorted(self._files)

    @property
    def files_below(self) -> list[str]:
        """In it and in the folders below."""
        return sorted(self._walk())

    def _walk(self) -> Iterator[str]:
        yield from self._files
        for folder in self._folders.values():
            yield from folder._walk()

    def _folder(self, names: Iterable[str]) -> Listing | None:
        """The folder below, made if need be; None if one of these names is junk."""
        folder = self
        for name in names:
            if is_junk(name, folder=True):
                return None
            folder = folder._folders.setdefault(name, Listing(name))
        return folder


class Joined:
    """Several storages as one: each one's files stand in a folder of its name."""

    def __init__(self, storages: Mapping[str, Storage]) -> None:
        """Take the storages by the names of their folders."""
        self._storages = storages

    @property
    def top(self) -> Directory:
        """All their files."""
        return Listing.of(f"{folder}/{name}" for folder, s in self._storages.items() for name in s.top.files_below)

    def exists(self, name: str) -> bool:
        """Whether the one that it names has it."""
        try:
            storage, inner = self._found(name)
        except FileNotFoundError:
            return False
        return storage.exists(inner)

    def read(self, name: str) -> bytes:
        """All bytes of a file."""
        storage, inner = self._found(name)
        return storage.read(inner)

    def source(self, name: str) -> ImageSource:
        """What the storage of the file says."""
        storage, inner = self._found(name)
        return storage.source(inner)

    def stamp(self, name: str) -> tuple[int, ...] | None:
        """What the storage of the file says."""
        storage, inner = self._found(name)
        return storage.stamp(inner)

    def _found(self, name: str) -> tuple[Storage, str]:
        end = name.find("/")
        while end >= 0:
            if (storage := self._storages.get(name[:end])) is not None:
                return storage, name[end + 1 :]
            end = name.find("/", end + 1)
        raise missing(name)


def missing(name: str) -> FileNotFoundError:
    """What is raised where a storage has no file of this name."""
    return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)


def stamp_of(stat: os.stat_result) -> tuple[int, ...] | None:
    """Size, times of the last change of content and of anything, number of the file; None if it is quite new."""
    if time.time() - stat.st_ctime < SETTLED:
        return None
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino, stat.st_dev


def is_junk(name: str, *, folder: bool) -> bool:
    """Whether a file or folder of this name is hidden, or the system's own."""
    return name.startswith(".") or name.lower() in (_JUNK_FOLDERS if folder else _JUNK_FILES)


class Folder:
    """A folder on disk; symbolic links are followed, but not in circles."""

    def __init__(self, root: Path) -> None:
        """Nothing is read yet."""
        self.root, self._prefix = root, os.path.join(root, "")

    @property
    def top(self) -> Directory:
        """The folder."""
        return _DiskDirectory(self.root, self.root)

    def exists(self, name: str) -> bool:
        """Whether there is anything of this name; a name may also be an absolute path."""
        return os.path.exists(self.root / name)

    def read(self, name: str) -> bytes:
        """All bytes of a file; a name may also be an absolute path."""
        return (self.root / name).read_bytes()

    def source(self, name: str) -> ImageSource:
        """Its path."""
        return self.root / name

    def stamp(self, name: str) -> tuple[int, ...] | None:
        """Of the file."""
        return stamp_of(os.stat(name if os.path.isabs(name) else f"{self._prefix}{name}"))


class _DiskDirectory:
    def __init__(self, root: Path, path: Path) -> None:
        self.root, self.path, self.name = root, path, path.name
        self._prefix = os.path.join(root, "")

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
            prefix = os.path.join(parent, "")
            yield from (f"{prefix}{name}" for name in files if not is_junk(name, folder=False))

    def _relative(self, path: Path | str) -> str:
        text = str(path)
        # Path.relative_to would take seconds for 60,000 files.
        name = text[len(self._prefix) :] if text.startswith(self._prefix) else os.path.relpath(text, self.root)
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
