"""The piece of a storage that holds some of its files, which another process or machine can open without the rest."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from regraft.data.decode import ImageSource
from regraft.data.sources.archive import Archive
from regraft.data.sources.parquet import ParquetImages, RowGroupCache
from regraft.data.sources.remote import RemoteFolder, UrlStorage
from regraft.data.storage import CombinedStorage, Directory, Folder, Storage


def piece_of(storage: Storage, names: Iterable[str]) -> Storage:
    """A storage that can be pickled and has at least these files of another one; only what they need is opened."""
    names = list(names)
    match storage:
        case CombinedStorage():
            inner: dict[str, list[str]] = {}
            for name in names:
                key = storage.key_of(name)
                inner.setdefault(key, []).append(name[len(key) + 1 :])
            return CombinedStorage({key: piece_of(storage.storages[key], below) for key, below in inner.items()})
        case UrlStorage():
            urls = {name: storage.urls[name] for name in names if name in storage.urls}
            return UrlStorage(piece_of(storage.storage, (name for name in names if name not in urls)), urls)
        case RemoteFolder():
            return _Reopened(RemoteFolder, storage.url)
        case Archive() | ParquetImages():
            return _Reopened(type(storage), str(storage.path.resolve()))
        case Folder():
            return Folder(storage.root.resolve())
        case _:  # a web server's address
            return storage


@dataclass(frozen=True)
class _Reopened:
    """An archive, a Parquet file or a remote folder that is opened where it is first read."""

    kind: type
    place: str

    @property
    def top(self) -> Directory:
        """Root directory."""
        return _open(self.kind, self.place).top

    def exists(self, name: str) -> bool:
        """Whether there is a file of this name."""
        return _open(self.kind, self.place).exists(name)

    def read(self, name: str) -> bytes:
        """All bytes of a file."""
        return _open(self.kind, self.place).read(name)

    def source(self, name: str) -> ImageSource:
        """The file's bytes."""
        return _open(self.kind, self.place).source(name)

    def stamp(self, name: str) -> tuple[int, ...] | None:
        """The stamp that the storage gives."""
        return _open(self.kind, self.place).stamp(name)


@functools.lru_cache(maxsize=8)  # pieces that follow one another are mostly of one file
def _open(kind: type, place: str) -> Storage:
    if kind is RemoteFolder:
        return RemoteFolder(place, listed=False)
    return ParquetImages(Path(place), RowGroupCache()) if kind is ParquetImages else Archive(Path(place))
