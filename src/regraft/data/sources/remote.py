"""Read files in remote storage, such as `s3://bucket/photos`, with fsspec; errors show no credentials."""

from __future__ import annotations

import importlib
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from hashlib import blake2b
from typing import Any

from regraft.data.decode import ImageSource
from regraft.data.sources import http
from regraft.data.sources.urls import is_web, is_within, redact
from regraft.data.storage import FILE_LIMIT, SETTLED, Directory, Listing, Storage, missing
from regraft.errors import DataError, MissingExtraError, UsageError, cause_of

#: Keys of a listing that identify the content, and keys that give a time; each protocol's package has its own.
_CONTENT = ("ETag", "etag", "md5Hash", "content_md5", "checksum", "sha256")
_TIMES = ("LastModified", "last_modified", "updated", "mtime", "modified", "created")


class RemoteFolder:
    """A folder in remote storage.

    A manifest names files without a listing; then they have no stamps. Raises `UsageError` if the folder does not
    exist, `DataError` if it cannot be listed, and what `filesystem` raises.
    """

    def __init__(self, url: str, *, listed: bool = True) -> None:
        self.url = url
        self._files, path = filesystem(url)
        self._prefix = f"{path.rstrip('/')}/"
        self._listed: dict[str, Mapping[str, Any]] = {}
        if listed:
            try:
                with _as_os_error():
                    self._files.invalidate_cache()
                    found = self._files.find(path, detail=True)
            except FileNotFoundError:
                found = {}
            except OSError as error:
                raise DataError(
                    f"{redact(url)} cannot be listed: {cause_of(error)}. Expected a readable folder."
                ) from None
            self._listed = {n.removeprefix(self._prefix): i for n, i in found.items() if n.startswith(self._prefix)}
            if not self._listed:
                raise UsageError(f"{redact(url)} does not exist or is empty. Expected a folder, .csv or .parquet.")

    @cached_property
    def top(self) -> Directory:
        """Root directory."""
        return Listing.of(self._listed)

    def exists(self, name: str) -> bool:
        """Whether the file is in the listing or, without a listing, whether its name has no spaces around it."""
        return name in self._listed if self._listed else name == name.strip()

    def read(self, name: str) -> bytes:
        """All bytes of a file."""
        if not is_within(name):
            raise ValueError(f"{name} leads out of {redact(self.url)}")
        return _read(self._files, self._prefix + name, self._listed.get(name, {}).get("size"))

    source = read

    def stamp(self, name: str) -> tuple[int, ...] | None:
        """Size, and a hash of the content's checksum or of the change time in the listing."""
        info = self._listed.get(name, {})
        marks = [info[key] for key in _CONTENT if info.get(key)]
        if not marks:
            marks = [info[key] for key in _TIMES if info.get(key)]
            if not marks or any(_is_recent(mark) for mark in marks):
                return None
        digest = blake2b("\n".join(map(str, marks)).encode(), digest_size=8).digest()
        return int(info.get("size") or 0), int.from_bytes(digest, "big")


@dataclass(frozen=True)
class UrlStorage:
    """A storage together with single files at URLs, by their names; `named_by` is the URL of their manifest, if any."""

    storage: Storage
    urls: Mapping[str, str]
    named_by: str = ""

    @property
    def top(self) -> Directory:
        """Root directory of the storage."""
        return self.storage.top

    def exists(self, name: str) -> bool:
        """Whether there is a URL or a file of this name."""
        return name in self.urls or self.storage.exists(name)

    def read(self, name: str) -> bytes:
        """All bytes of a file."""
        return fetch(self.urls[name], self.named_by) if name in self.urls else self.storage.read(name)

    def source(self, name: str) -> ImageSource:
        """Bytes of a file at a URL, else what the storage returns."""
        return self.read(name) if name in self.urls else self.storage.source(name)

    def stamp(self, name: str) -> tuple[int, ...] | None:
        """None for a file at a URL, else the stamp from the storage."""
        return None if name in self.urls else self.storage.stamp(name)


def fetch(url: str, named_by: str = "") -> bytes:
    """Download a file by its URL, whatever the protocol; raises `OSError` if it cannot be read or is too large.

    `named_by` is the URL of the manifest that names it, which may not lead everywhere (see `http.fetch`).
    """
    return http.fetch(url, named_by if is_web(named_by) else "") if is_web(url) else _read(*filesystem(url))


def filesystem(url: str) -> tuple[Any, str]:
    """The fsspec file system of a URL, and the path in it.

    Raises `MissingExtraError` without fsspec, `UsageError` if the protocol is unknown or its package is not installed,
    and `DataError` if the storage cannot be reached.
    """
    try:
        fsspec: Any = importlib.import_module("fsspec.core")
    except ImportError as error:
        raise MissingExtraError(f"Reading {redact(url)}", "remote") from error
    try:
        files, path = fsspec.url_to_fs(url)
    except (ImportError, ValueError) as error:  # the package of the protocol is missing; no such protocol
        raise UsageError(f"{redact(url)} cannot be read: {redact(str(error))}.") from None
    except Exception as error:  # each package has its own exceptions
        raise DataError(f"{redact(url)} cannot be reached: {redact(str(error)) or type(error).__name__}.") from None
    return files, str(path)


def _read(files: Any, path: str, size: int | None = None) -> bytes:
    with _as_os_error():
        data: bytes = files.cat_file(path) if size is not None and size <= FILE_LIMIT else b""
        if size is None:
            data = files.cat_file(path, start=0, end=FILE_LIMIT + 1)
    if max(size or 0, len(data)) > FILE_LIMIT:
        raise OSError(f"more than the {FILE_LIMIT:,} bytes that are allowed")
    return data


@contextmanager
def _as_os_error() -> Iterator[None]:
    """Convert every exception of a protocol's package to an `OSError` without credentials."""
    try:
        yield
    except FileNotFoundError as error:
        raise missing(redact(str(error))) from None
    except Exception as error:  # each package has its own exceptions
        raise OSError(redact(str(error)) or type(error).__name__) from None


def _is_recent(mark: Any) -> bool:
    """Whether a time is so recent that a second change may leave no trace."""
    seconds = mark.timestamp() if isinstance(mark, datetime) else mark
    return not isinstance(seconds, int | float) or time.time() - seconds < SETTLED
