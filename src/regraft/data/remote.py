"""Files in remote storage: what fsspec reads, and single files by their URLs.

Enters: a URL such as `s3://bucket/photos`. Leaves: a `Storage`, and errors that show no credentials. fsspec is the
extra `remote`; keys come from where each protocol's own package looks for them, never from here.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from functools import cached_property
from hashlib import blake2b
from typing import Any

from regraft.data import web
from regraft.data.decode import ImageSource
from regraft.data.storage import FILE_LIMIT, SETTLED, Directory, Listing, Storage, missing
from regraft.data.urls import is_web, is_within, shown
from regraft.errors import DataError, MissingExtraError, UsageError

#: What a listing says about content, best first; the names are those of the protocols' packages.
_CONTENT = ("ETag", "etag", "md5Hash", "content_md5", "checksum", "sha256")
_TIMES = ("LastModified", "last_modified", "updated", "mtime", "modified", "created")


class RemoteFolder:
    """A folder in remote storage.

    Args:
        url: Of the folder.
        listed: Whether its files are listed; without, as for a manifest that names them, none has a stamp.

    Raises:
        UsageError: The protocol is unknown or its package is not installed, or there is no such folder.
        MissingExtraError: fsspec is not installed.
        DataError: It cannot be listed.
    """

    def __init__(self, url: str, *, listed: bool = True) -> None:
        """List it."""
        self.url = url
        self._files, path = filesystem(url)
        self._prefix = f"{path.rstrip('/')}/"
        self._known: dict[str, Mapping[str, Any]] = {}
        if listed:
            try:
                with _told():
                    self._files.invalidate_cache()
                    found = self._files.find(path, detail=True)
            except FileNotFoundError:
                found = {}
            except OSError as error:
                raise DataError(
                    f"{shown(url)} cannot be listed: {error}. Expected a folder that you may list and read."
                ) from None
            self._known = {n.removeprefix(self._prefix): i for n, i in found.items() if n.startswith(self._prefix)}
            if not self._known:
                raise UsageError(f"{shown(url)} does not exist, or holds no file. Expected a folder, .csv or .parquet.")

    @cached_property
    def top(self) -> Directory:
        """Its root."""
        return Listing.of(self._known)

    def exists(self, name: str) -> bool:
        """Whether it was listed; whether it could be, where nothing was."""
        return name in self._known if self._known else name == name.strip()

    def read(self, name: str) -> bytes:
        """All bytes of a file."""
        if not is_within(name):
            raise ValueError(f"{name} leads out of {shown(self.url)}")
        return _read(self._files, self._prefix + name, self._known.get(name, {}).get("size"))

    def source(self, name: str) -> ImageSource:
        """Its bytes."""
        return self.read(name)

    def stamp(self, name: str) -> tuple[int, ...] | None:
        """Its size, and what the listing says of its content or of the time of its last change, hashed."""
        info = self._known.get(name, {})
        marks = [info[key] for key in _CONTENT if info.get(key)]
        if not marks:
            marks = [info[key] for key in _TIMES if info.get(key)]
            if not marks or any(_is_new(mark) for mark in marks):
                return None
        digest = blake2b("\n".join(map(str, marks)).encode(), digest_size=8).digest()
        return int(info.get("size") or 0), int.from_bytes(digest, "big")


class Linked:
    """A storage, and files elsewhere that are named by their URLs.

    Args:
        storage: What holds every other file.
        urls: By the names under which they are read.
    """

    def __init__(self, storage: Storage, urls: Mapping[str, str]) -> None:
        """Nothing is read yet."""
        self._storage, self._urls = storage, urls

    @property
    def top(self) -> Directory:
        """The storage's own."""
        return self._storage.top

    def exists(self, name: str) -> bool:
        """Whether there is a URL or a file of this name."""
        return name in self._urls or self._storage.exists(name)

    def read(self, name: str) -> bytes:
        """All bytes of a file."""
        return fetch(self._urls[name]) if name in self._urls else self._storage.read(name)

    def source(self, name: str) -> ImageSource:
        """Bytes of what has a URL, else what the storage says."""
        return self.read(name) if name in self._urls else self._storage.source(name)

    def stamp(self, name: str) -> tuple[int, ...] | None:
        """None for what has a URL, else what the storage says."""
        return None if name in self._urls else self._storage.stamp(name)


def fetch(url: str) -> bytes:
    """All bytes of the file at a URL of any protocol.

    Raises:
        OSError: It cannot be read, or is larger than is allowed.
        UsageError: The protocol is unknown or its package is not installed.
        MissingExtraError: fsspec is not installed.
    """
    return web.fetch(url) if is_web(url) else _read(*filesystem(url))


def filesystem(url: str) -> tuple[Any, str]:
    """The file system of fsspec for a URL, and the path in it.

    Raises:
        UsageError: The protocol is unknown or its package is not installed.
        MissingExtraError: fsspec is not installed.
        DataError: Its storage cannot be reached.
    """
    try:
        fsspec: Any = importlib.import_module("fsspec.core")
    except ImportError as error:
        raise MissingExtraError(f"Reading {shown(url)}", "remote") from error
    try:
        files, path = fsspec.url_to_fs(url)
    except (ImportError, ValueError) as error:  # the package of the protocol is missing; no such protocol
        raise UsageError(f"{shown(url)} cannot be read: {shown(str(error))}.") from None
    except Exception as error:  # each package has exceptions of its own
        raise DataError(f"{shown(url)} cannot be reached: {shown(str(error)) or type(error).__name__}.") from None
    return files, str(path)


def _read(files: Any, path: str, size: int | None = None) -> bytes:
    with _told():
        data: bytes = files.cat_file(path) if size is not None and size <= FILE_LIMIT else b""
        if size is None:
            data = files.cat_file(path, start=0, end=FILE_LIMIT + 1)
    if max(size or 0, len(data)) > FILE_LIMIT:
        raise OSError(f"more than the {FILE_LIMIT:,} bytes that are allowed")
    return data


@contextmanager
def _told() -> Iterator[None]:
    """Make an `OSError` without credentials of whatever a protocol's package raises."""
    try:
        yield
    except FileNotFoundError as error:
        raise missing(shown(str(error))) from None
    except Exception as error:  # each package has exceptions of its own
        raise OSError(shown(str(error)) or type(error).__name__) from None


def _is_new(mark: Any) -> bool:
    """Whether a time is so recent that a second change might leave no trace."""
    seconds = mark.timestamp() if isinstance(mark, datetime) else mark
    return not isinstance(seconds, int | float) or time.time() - seconds < SETTLED
