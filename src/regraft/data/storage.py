"""Read files by relative names with forward slashes from a folder, an archive, a table or the network."""

from __future__ import annotations

import errno
import os
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from posixpath import splitext
from typing import Protocol

from regraft.data.decode import EXTENSIONS, ImageSource
from regraft.errors import DataError, ImageError, ImageErrorCode

_JUNK_FILES = frozenset({"thumbs.db", "desktop.ini"})
_JUNK_FOLDERS = frozenset({
    "__macosx", "@eadir", "$recycle.bin", "#recycle", "#snapshot", "lost+found", "system volume information",
})  # fmt: skip
#: Files that together show that this package wrote a folder: a run, a study, an export, pictures, a table of the cache.
_OUTPUTS = (
    ("config.toml", "source.json"), ("config.toml", "split.csv", ".lock"), ("model.json", "class_names.json"),
    ("predictions.csv", "label_errors.csv"), ("predictions.parquet", "label_errors.csv"),
    ("evaluation.json", "predictions.csv"), ("evaluation.json", "predictions.parquet"), ("trials.log", "trials.csv"),
    ("comparison.csv", "comparison.md"),
    ("learning_curve.csv", "learning_curve.json"), ("evidence.json", "evidence.csv"), ("explanations.json",),
    ("export.json", "predict.py"), ("table.json", "rows.bin"),
)  # fmt: skip

#: Size limit in bytes of files outside folders; an uncompressed image of `MAX_PIXELS` fits.
FILE_LIMIT = 512 * 2**20

#: Seconds after a change in which a second change may leave a file's times as they are.
SETTLED = 2.0


class TruncatedFileError(OSError):
    """A file ends before its last byte."""


class Directory(Protocol):
    """A directory of a storage. Hidden and system files are left out, and names are sorted."""

    @property
    def name(self) -> str:
        """Name of the directory."""

    @property
    def folders(self) -> list[Directory]:
        """Directories directly in this one."""

    @property
    def files(self) -> list[str]:
        """Names, from the storage's root, of the files directly in this directory."""

    @property
    def files_below(self) -> list[str]:
        """Names, from the storage's root, of all files in this directory and below."""

    @property
    def hidden_below(self) -> list[str]:
        """Names, from the storage's root, of hidden and system files in this directory and its listed folders."""


class Contents(Protocol):
    """Contents by name; safe to read from several threads."""

    def read(self, name: str) -> bytes:
        """All bytes of a file; raises `OSError` if it cannot be read and `ValueError` for an invalid name."""

    def source(self, name: str) -> ImageSource:
        """The file's path if it is on disk, else its bytes; raises `OSError` and `ValueError` as `read` does."""

    def stamp(self, name: str) -> tuple[int, ...] | None:
        """Numbers that change with the content, None if a change may not show; raises `OSError` if there is no file."""


class Storage(Contents, Protocol):
    """Files by name, and the folders that they are in."""

    @property
    def top(self) -> Directory:
        """Root directory."""

    def exists(self, name: str) -> bool:
        """Whether there is a file of this name."""


class Listing:
    """A directory of a storage that lists all its files at once."""

    def __init__(self, name: str = "") -> None:
        self.name = name
        self._folders: dict[str, Listing] = {}
        self._files: list[str] = []
        self._hidden: list[str] = []

    @classmethod
    def of(cls, files: Iterable[str], folders: Iterable[str] = ()) -> Listing:
        """The root directory of these files and of folders that may be empty, without hidden and system files."""
        top = cls()
        for folder in folders:
            top._folder(folder.split("/"))
        for file in files:
            *parents, name = file.split("/")
            if (parent := top._folder(parents)) is not None:
                (parent._hidden if is_junk(name, folder=False) else parent._files).append(file)
        return top

    @property
    def folders(self) -> list[Directory]:
        """Directories directly in this one."""
        return [folder for _, folder in sorted(self._folders.items()) if not folder._is_output()]

    @property
    def files(self) -> list[str]:
        """Files directly in this directory."""
        return sorted(self._files)

    @property
    def files_below(self) -> list[str]:
        """Files in this directory and below."""
        return sorted(file for folder in self._walk() for file in folder._files)

    @property
    def hidden_below(self) -> list[str]:
        """Hidden and system files in this directory and its listed folders."""
        return sorted(file for folder in self._walk() for file in folder._hidden)

    def _walk(self) -> Iterator[Listing]:
        yield self
        for folder in self._folders.values():
            if not folder._is_output():
                yield from folder._walk()

    def _is_output(self) -> bool:
        names, inner = {file.rpartition("/")[2] for file in self._files}, self._folders.values()
        return any(names.issuperset(files) for files in _OUTPUTS) or (
            bool(inner) and not any(map(is_image, names)) and all(folder._is_output() for folder in inner)
        )

    def _folder(self, names: Iterable[str]) -> Listing | None:
        """The folder with this path, created if needed; None if it is in a hidden or system folder."""
        folder = self
        for name in names:
            if is_junk(name, folder=True):
                return None
            folder = folder._folders.setdefault(name, Listing(name))
        return folder


class RoutedStorage(ABC):
    """A storage whose files are those of others, found by their names."""

    def exists(self, name: str) -> bool:
        """Whether there is a file of this name."""
        with suppress(FileNotFoundError):
            storage, inner = self._find(name)
            return storage.exists(inner)
        return False

    def read(self, name: str) -> bytes:
        """All bytes of a file."""
        storage, inner = self._find(name)
        return storage.read(inner)

    def source(self, name: str) -> ImageSource:
        """The file's path or bytes."""
        storage, inner = self._find(name)
        return storage.source(inner)

    def stamp(self, name: str) -> tuple[int, ...] | None:
        """The stamp that the file's storage gives."""
        storage, inner = self._find(name)
        return storage.stamp(inner)

    @abstractmethod
    def _find(self, name: str) -> tuple[Storage, str]:
        """The storage of a file, and the file's name in it; raises `FileNotFoundError` if there is none."""


@dataclass(frozen=True)
class CombinedStorage(RoutedStorage):
    """Several storages as one, each in the folder of its name."""

    storages: Mapping[str, Storage]

    @property
    def top(self) -> Directory:
        """Root directory with all folders."""
        return Listing.of(f"{folder}/{name}" for folder, s in self.storages.items() for name in s.top.files_below)

    def key_of(self, name: str) -> str:
        """The folder of the storage that a name leads into; raises `OSError` if there is none."""
        end = name.find("/")
        while end >= 0:
            if name[:end] in self.storages:
                return name[:end]
            end = name.find("/", end + 1)
        raise missing(name)

    def _find(self, name: str) -> tuple[Storage, str]:
        key = self.key_of(name)
        return self.storages[key], name[len(key) + 1 :]


def is_image(name: str) -> bool:
    """Whether a file is an image by its extension."""
    return splitext(name)[1].lower() in EXTENSIONS  # PurePosixPath takes a second for 60,000 names


def missing(name: str) -> FileNotFoundError:
    """The error for a name that a storage does not have."""
    return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)


def image_error(error: OSError | ValueError, path: str = "") -> ImageError:
    """The `ImageError` for a file that a storage cannot read."""
    system = getattr(error, "strerror", None)
    code = ImageErrorCode.TRUNCATED if isinstance(error, TruncatedFileError) else ImageErrorCode.UNREADABLE
    return ImageError(system.lower() if system else str(error), path, code)


def stamp_of(stat: os.stat_result) -> tuple[int, ...] | None:
    """Size, change times and identity of a file; None if it changed within the last `SETTLED` seconds."""
    if time.time() - stat.st_ctime < SETTLED:
        return None
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino, stat.st_dev


def is_junk(name: str, *, folder: bool) -> bool:
    """Whether a name is that of a hidden or system file (or folder)."""
    return name.startswith(".") or name.lower() in (_JUNK_FOLDERS if folder else _JUNK_FILES)


def is_output(path: Path | str) -> bool:
    """Whether this package wrote a folder, or all folders in it, and it has no images of its own."""
    if any(all(os.path.exists(os.path.join(path, file)) for file in files) for files in _OUTPUTS):
        return True
    inner = []
    with os.scandir(path) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                inner.append(entry.path)
            elif is_image(entry.name) or entry.is_dir():
                return False
    return bool(inner) and all(map(is_output, inner))


class Folder:
    """A folder on disk. Symbolic links are followed, but cycles are not.

    `outputs` are the folders in it that this package wrote, as far as they were listed and left out.
    """

    def __init__(self, root: Path) -> None:
        self.root, self._prefix = root, os.path.join(root, "")
        self.outputs: set[str] = set()

    @property
    def top(self) -> Directory:
        """Root directory."""
        return _DiskDirectory(self.root, self.root, self.outputs)

    def exists(self, name: str) -> bool:
        """Whether there is a file of this name, which may also be an absolute path."""
        return os.path.isfile(self.root / name)

    def read(self, name: str) -> bytes:
        """All bytes of a file; the name may also be an absolute path."""
        return (self.root / name).read_bytes()

    def source(self, name: str) -> ImageSource:
        """The file's path."""
        return self.root / name

    def stamp(self, name: str) -> tuple[int, ...] | None:
        """The file's size, change times and identity."""
        return stamp_of(os.stat(name if os.path.isabs(name) else f"{self._prefix}{name}"))


class _DiskDirectory:
    def __init__(self, root: Path, path: Path, outputs: set[str]) -> None:
        self.root, self.path, self.name, self._outputs = root, path, path.name, outputs
        self._prefix = os.path.join(root, "")

    @property
    def folders(self) -> list[Directory]:
        children = (child for child in self.path.iterdir() if child.is_dir() and not is_junk(child.name, folder=True))
        data = [child for child in sorted(children) if not self._is_output(str(child))]
        return [_DiskDirectory(self.root, child, self._outputs) for child in data]

    @property
    def files(self) -> list[str]:
        children = (child for child in sorted(self.path.iterdir()) if not child.is_dir())
        return [self._relative(child) for child in children if not is_junk(child.name, folder=False)]

    @property
    def files_below(self) -> list[str]:
        return sorted(self._relative(file) for file, hidden in self._walk if not hidden)

    @property
    def hidden_below(self) -> list[str]:
        return sorted(self._relative(file) for file, hidden in self._walk if hidden)

    @cached_property
    def _walk(self) -> list[tuple[str, bool]]:
        """Files in this directory and below, and whether each is hidden."""
        found: list[tuple[str, bool]] = []
        visited = set(map(str, Path(os.path.realpath(self.path)).parents))  # links may lead back up
        for parent, names, files in os.walk(self.path, followlinks=True, onerror=_raise):
            real = os.path.realpath(parent)
            if real in visited:
                names.clear()
                continue
            visited.add(real)
            prefix = os.path.join(parent, "")
            listed = (name for name in names if not is_junk(name, folder=True))
            names[:] = sorted(name for name in listed if not self._is_output(f"{prefix}{name}"))
            found += [(f"{prefix}{name}", is_junk(name, folder=False)) for name in files]
        return found

    def _is_output(self, path: str) -> bool:
        found = is_output(path)
        if found:
            self._outputs.add(self._relative(path))
        return found

    def _relative(self, path: Path | str) -> str:
        text = str(path)
        # Path.relative_to would take seconds for 60,000 files.
        name = text[len(self._prefix) :] if text.startswith(self._prefix) else os.path.relpath(text, self.root)
        name = name.replace(os.sep, "/")
        try:
            name.encode()
        except UnicodeEncodeError as error:
            encoding = sys.getfilesystemencoding()
            advice = "Rename the file." if encoding == "utf-8" else "Set PYTHONUTF8=1, so that names are UTF-8."
            raise DataError(f"The name of {os.fsencode(path)!r} is not {encoding.upper()}. {advice}") from error
        return name


def _raise(error: OSError) -> None:
    raise error
