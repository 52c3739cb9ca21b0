"""What a path means: which storage holds the files, and what tells the classes.

Enters: a folder, an archive, a table or a URL. Leaves: an open `Storage` and its `Layout`; no image is read yet.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from regraft.data.archives import TAR_SUFFIXES, Archive, is_archive, is_tar
from regraft.data.layout import Layout, is_image, layout_of, read_layout, shards_in
from regraft.data.manifest import PART_NAMES, SUFFIXES, check_rows, read_cells, read_manifest
from regraft.data.metadata import has_metadata, read_metadata
from regraft.data.remote import Linked, RemoteFolder, fetch
from regraft.data.storage import Directory, Folder, Joined, Storage
from regraft.data.tables import Cache, ImageTable, is_image_table, read_tables
from regraft.data.urls import is_url, is_web, origin_of, parent_of, shown, suffix_of
from regraft.data.web import WebFolder
from regraft.data.webdataset import CLASS_FILES, class_names, is_webdataset, read_webdataset
from regraft.errors import DataError, UsageError, counted

_EXPECTED = (
    "Expected a folder of labelled images, a zip or tar archive of one, a CSV or Parquet manifest, a Parquet file with "
    "images, or the URL of a folder or manifest."
)
_PARQUET = ".parquet"


@dataclass(frozen=True)
class Opened:
    """Labelled images that were found and are not read yet.

    Attributes:
        storage: What holds their files.
        root: Where that is, for people: a path, or a URL without credentials.
        layout: What is in it.
        is_remote: Whether reading waits for a network.
    """

    storage: Storage
    root: Path | str
    layout: Layout
    is_remote: bool = False


def open_data(path: Path | str, root: Path | str | None = None, *, remote: bool = False) -> Opened:
    """Find what `scan` reads.

    Args:
        path: As for `scan`.
        root: As for `scan`.
        remote: As for `scan`.

    Raises:
        UsageError: `path` is nothing that can be read, has a `root` and is no manifest, or names files by URLs and
            `remote` is not set.
        DataError: It is damaged, or its labels or parts are unclear.
    """
    path = _located(path)
    if _is_manifest(path):
        return _manifest(path, root, remote)
    name = shown(str(path))
    if root is not None:
        kind = "a folder" if isinstance(path, Path) and path.is_dir() else "no manifest"
        raise UsageError(f"{name} is {kind} and its own root; root={shown(str(root))} is for manifests.")
    try:
        storage, layout = _place(path)
        return Opened(storage, path if isinstance(path, Path) else name, layout(), isinstance(path, str))
    except OSError as error:
        why = str(error.strerror or error).lower()
        raise DataError(f"{error.filename or name}: {why}. Expected a folder that you may read.") from error


def _located(path: Path | str) -> Path | str:
    """A path that exists, or a URL as it is written."""
    if isinstance(path, str) and is_url(path):
        return path.strip()
    path = Path(path)
    if path.exists():
        return path
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:[\\/]", str(path)):
        raise UsageError(f"{path} is no file here. A URL is given as a text: a Path leaves out one of its slashes.")
    raise UsageError(f"{path} does not exist. {_EXPECTED}")


def _is_manifest(path: Path | str) -> bool:
    if isinstance(path, str):
        return suffix_of(path) in SUFFIXES
    if path.is_dir() or path.suffix.lower() not in SUFFIXES:
        return False
    return path.suffix.lower() != _PARQUET or not is_image_table(path)


def _place(path: Path | str) -> tuple[Storage, Callable[[], Layout]]:
    """What holds the files, and what finds out the classes."""
    name = shown(str(path))
    if isinstance(path, str):
        if is_web(path) or is_archive(path):
            what = "a web server tells no list of files" if is_web(path) else "an archive is not read over a network"
            raise UsageError(f"{name}: {what}. Expected a manifest there (.csv or .parquet), or a copy of it here.")
        remote = RemoteFolder(path)
        return remote, lambda: _tree(remote, name)
    if path.is_dir():
        return _folder(path)
    if is_archive(path):
        archive = Archive(path)
        return archive, lambda: _archive(archive)
    if path.suffix.lower() == _PARQUET:
        table = ImageTable(path, Cache())
        return table, lambda: read_tables({"": table}, name)
    raise UsageError(f"{path} is a file. {_EXPECTED}")


def _folder(path: Path) -> tuple[Storage, Callable[[], Layout]]:
    folder, name = Folder(path), str(path)
    names = shards_in(folder.top, (*TAR_SUFFIXES, _PARQUET))
    if names and all(is_tar(shard) for shard in names):
        shards = {shard: Archive(path / shard) for shard in names}
        places = (folder, Folder((path / names[0]).parent))
        return Joined(shards), lambda: _with_bad(read_webdataset(shards, _classes(places), name), shards)
    if names and all(shard.lower().endswith(_PARQUET) for shard in names):
        cache = Cache()
        tables = {shard: ImageTable(path / shard, cache) for shard in names}
        return Joined(tables), lambda: read_tables(tables, name)
    return folder, lambda: _tree(folder, name)


def _tree(storage: Storage, name: str) -> Layout:
    return read_metadata(storage, storage.top, name) or read_layout(storage.top, name)


def _archive(archive: Archive) -> Layout:
    name = str(archive.path)
    top, depth = _entered(archive.top)
    layout = read_metadata(archive, top, name)
    if layout is None and is_tar(archive.path) and is_webdataset(archive):
        layout = read_webdataset({"": archive}, _classes((archive, Folder(archive.path.parent))), name)
    return _with_bad(layout or read_layout(top, name, depth), {"": archive})


def _with_bad(layout: Layout, archives: Mapping[str, Archive]) -> Layout:
    """The layout, with what the archives themselves know to be unreadable."""
    for name, archive in archives.items():
        layout.bad.extend(replace(bad, path=f"{name}/{bad.path}" if name else bad.path) for bad in archive.bad)
    return layout


def _entered(top: Directory) -> tuple[Directory, int]:
    """Where the classes or parts are in an archive: below a folder in which all of it was packed; and how deep."""
    depth = 0
    while True:
        if len(top.folders) != 1 or any(is_image(file) for file in top.files) or has_metadata(top):
            return top, depth
        (only,) = top.folders
        parts = {PART_NAMES.get(folder.name.lower()) for folder in only.folders}
        # A class holds images, and a part holds classes: neither is entered.
        if not (parts or has_metadata(only)) or (only.name.lower() in PART_NAMES and "train" not in parts):
            return top, depth
        top, depth = only, depth + 1


def _classes(places: Iterable[Storage]) -> list[str]:
    """Names of the classes, where a file beside shards has them."""
    for place in places:
        for file in CLASS_FILES:
            if place.exists(file):
                return class_names(place.read(file), file)
    return []


def _manifest(path: Path | str, root: Path | str | None, remote: bool) -> Opened:
    name = shown(str(path))
    storage, where = _root(path, root)
    if isinstance(path, Path):
        rows = read_manifest(path, storage)
    else:
        try:
            rows = check_rows(name, read_cells(name, fetch(path)), storage.exists)
        except OSError as error:
            raise DataError(f"{name} cannot be read: {error}. Expected a file that you may read.") from None
    links = [row.path for row in rows if is_url(row.path)]
    own = origin_of(path) if isinstance(path, str) else None
    others = [url for url in links if origin_of(url) != own]
    if others and not remote:
        raise UsageError(
            f"{name} names {counted(len(others), 'image')} elsewhere by URL, such as {shown(others[0])}. They are "
            "fetched only if that is asked for: --remote, or scan(path, remote=True) in Python."
        )
    if links:
        urls = {shown(url): url for url in links}
        if len(urls) < len(links):
            raise DataError(f"{name} has URLs that differ only in what looks like a credential. Keep one an image.")
        storage = Linked(storage, urls)
        rows = [replace(row, path=shown(row.path)) if is_url(row.path) else row for row in rows]
    return Opened(storage, where, layout_of(rows, name), bool(links) or isinstance(where, str))


def _root(path: Path | str, root: Path | str | None) -> tuple[Storage, Path | str]:
    """What the paths in a manifest start from: its own folder, or anything that holds files."""
    if root is not None:
        root = _located(root)
        return _place(root)[0], root if isinstance(root, Path) else shown(root)
    if isinstance(path, Path):
        return Folder(path.parent), path.parent
    folder = parent_of(path)
    return WebFolder(folder) if is_web(path) else RemoteFolder(folder, listed=False), shown(folder)
