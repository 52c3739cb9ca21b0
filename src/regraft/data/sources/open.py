"""Open any source of labeled images (a folder, an archive, a table or a URL) and detect its format."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from regraft.data.entries import EntryTable, ImageEntry
from regraft.data.labels import UNSAID, AskedTask, LabelOptions
from regraft.data.sources.annotated import annotated_layout, find_annotations
from regraft.data.sources.annotations import SUFFIXES as ANNOTATIONS
from regraft.data.sources.annotations import read_annotations
from regraft.data.sources.archive import TAR_SUFFIXES, Archive, is_archive, is_tar
from regraft.data.sources.folders import FolderLayout, Layout, layout_of, read_layout, shards_in
from regraft.data.sources.http import WebFolder
from regraft.data.sources.imagefolder import has_metadata, read_metadata
from regraft.data.sources.manifest import parse_manifest, read_manifest
from regraft.data.sources.parquet import ParquetImages, RowGroupCache, is_parquet_images, read_tables
from regraft.data.sources.part_names import part_of, parts_among
from regraft.data.sources.remote import RemoteFolder, UrlStorage, fetch
from regraft.data.sources.table import SUFFIXES
from regraft.data.sources.tree import is_tree, read_tree
from regraft.data.sources.urls import is_url, is_web, leads_to_this_machine, origin_of, parent_of, redact, suffix_of
from regraft.data.sources.webdataset import CLASS_FILES, class_names, is_webdataset, read_webdataset
from regraft.data.storage import CombinedStorage, Directory, Folder, Storage, is_image, is_output
from regraft.data.strings import in_blocks
from regraft.data.taxonomy import Taxonomy
from regraft.errors import DataError, UsageError, cause_of
from regraft.text import pluralize

_EXPECTED = (
    "Expected a folder of labeled images, a zip or tar archive of one, a CSV or Parquet manifest, a Parquet file with "
    "images, annotations of COCO, Label Studio or CVAT, or the URL of a folder or manifest."
)
_PARQUET = ".parquet"
#: Folders of annotations, whose images are in the folder above.
_OF_ANNOTATIONS = frozenset({"annotations", "annotation", "labels"})


@dataclass(frozen=True)
class DataSource:
    """Labeled images before they are read; `root` is the path of the storage, or its URL without credentials."""

    storage: Storage
    root: Path | str
    layout: Layout
    is_remote: bool = False


def open_data(
    path: Path | str,
    root: Path | str | None = None,
    *,
    remote: bool = False,
    layout: FolderLayout = "auto",
    known: Collection[str] = (),
    tree: Taxonomy | None = None,
    image_column: str = "",
    label_column: str = "",
    task: AskedTask = "auto",
    label_separator: str = "",
    group_by: str = "",
    pool_by: str = "",
) -> DataSource:
    """Open the source that `scan` reads; the arguments are those of `scan`, where `known` is `classes`.

    `tree` is that of an existing model: folders above its classes are recognized, and its names are used. `group_by`
    and `pool_by` count only where they name a column of a manifest; `with_groups` and `with_pooled_groups` take them as
    patterns.

    Raises `UsageError` if `path` does not exist or has no known format, `root` is given without a manifest, or a
    manifest names files by URL and `remote` is not set; `DataError` if the source is damaged or its labels or parts are
    ambiguous.
    """
    path, asked = _resolve(path), LabelOptions(task, label_separator)
    columns = {
        "image_column": image_column, "label_column": label_column, "label_options": asked, "group_by": group_by,
        "pool_by": pool_by,
    }  # fmt: skip
    if _is_manifest(path):
        return _open_manifest(path, root, remote, columns)
    if isinstance(path, Path) and path.is_file() and path.suffix.lower() in ANNOTATIONS:
        return _open_annotations(path, root, columns)
    name = redact(str(path))
    if root is not None:
        raise UsageError(f"{name} is not a manifest and is its own root; root={redact(str(root))} is for manifests.")
    try:
        folders = partial(_read_layout, layout=layout, known=known, tree=tree, asked=asked)
        storage, read = _open_storage(path, folders if layout != "auto" else partial(_read_any, folders, asked), asked)
        return DataSource(storage, path if isinstance(path, Path) else name, read(), isinstance(path, str))
    except OSError as error:
        reason = str(error.strerror or error).lower()
        raise DataError(f"{error.filename or name}: {reason}. Expected a readable folder.") from error


def _read_layout(
    storage: Storage, top: Directory, name: str, depth: int = 0, *, layout: FolderLayout, known: Collection[str],
    tree: Taxonomy | None,
    asked: LabelOptions,
) -> Layout:  # fmt: skip
    if layout == "tree" or (layout == "auto" and tree is not None and is_tree(top, tree)):
        return read_tree(storage, top, name, depth, known=tree)
    return read_layout(storage, top, name, depth, layout=layout, known=known, label_options=asked)


def open_images(path: Path | str, *, remote: bool = False, image_column: str = "", group_by: str = "") -> DataSource:
    """Open images whose labels do not count: all of a folder or archive, or those that a table of paths lists.

    The names of folders mean nothing here, and every label is empty. `group_by` is as for `open_data`, which also says
    what is raised.
    """
    path = _resolve(path)
    if _is_manifest(path):
        options = {"image_column": image_column, "labeled": False, "group_by": group_by}
        return _open_manifest(path, None, remote, options)
    name = redact(str(path))
    try:
        storage, _ = _open_storage(path)
        names = storage.top.files_below
    except OSError as error:
        reason = str(error.strerror or error).lower()
        raise DataError(f"{error.filename or name}: {reason}. Expected a readable folder.") from error
    images = names if isinstance(storage, ParquetImages) else [file for file in names if is_image(file)]
    if not images:
        raise DataError(f"{name} has no images. Expected image files, in folders of any names.")
    layout = Layout(EntryTable(ImageEntry(image, "") for image in images), set())
    if isinstance(storage, Archive):
        layout = _with_bad(layout, {"": storage})
    return DataSource(storage, path if isinstance(path, Path) else name, layout, isinstance(path, str))


def _resolve(path: Path | str) -> Path | str:
    if isinstance(path, str) and is_url(path):
        return path.strip()
    path = Path(path)
    if path.exists():
        return path
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:[\\/]", str(path)):
        raise UsageError(f"{path} does not exist. Pass a URL as a string: Path removes one of its slashes.")
    raise UsageError(f"{path} does not exist. {_EXPECTED}")


def _is_manifest(path: Path | str) -> bool:
    if isinstance(path, str):
        return suffix_of(path) in SUFFIXES
    if path.is_dir() or path.suffix.lower() not in SUFFIXES:
        return False
    return path.suffix.lower() != _PARQUET or not is_parquet_images(path)


def _open_storage(
    path: Path | str, read: Callable[..., Layout] = read_layout, asked: LabelOptions = UNSAID
) -> tuple[Storage, Callable[[], Layout]]:
    name = redact(str(path))
    if isinstance(path, str):
        if is_web(path) or is_archive(path):
            what = "a web server cannot list files" if is_web(path) else "archives are not read over a network"
            raise UsageError(f"{name}: {what}. Expected the URL of a manifest (.csv or .parquet), or a local copy.")
        remote = RemoteFolder(path)
        return remote, lambda: _read_folders(remote, name, read, asked)
    if path.is_dir():
        return _folder(path, read, asked)
    if is_archive(path):
        archive = Archive(path)
        return archive, lambda: _read_archive(archive, read, asked)
    if path.suffix.lower() == _PARQUET:
        table = ParquetImages(path, RowGroupCache())
        return table, lambda: read_tables({"": table}, name, asked)
    raise UsageError(f"{path} is a file. {_EXPECTED}")


def _folder(path: Path, read: Callable[..., Layout], asked: LabelOptions) -> tuple[Storage, Callable[[], Layout]]:
    folder, name = Folder(path), str(path)
    if is_output(path):
        raise UsageError(f"{name} was written by regraft, such as a run, and is not data. {_EXPECTED}")
    names = shards_in(folder.top, (*TAR_SUFFIXES, _PARQUET))
    if names and all(is_tar(shard) for shard in names):
        shards = {shard: Archive(path / shard) for shard in names}
        storages = (folder, Folder((path / names[0]).parent))
        return CombinedStorage(shards), lambda: _with_bad(
            read_webdataset(shards, _class_names(storages), name, asked), shards
        )
    if names and all(shard.lower().endswith(_PARQUET) for shard in names):
        cache = RowGroupCache()
        tables = {shard: ParquetImages(path / shard, cache) for shard in names}
        return CombinedStorage(tables), lambda: read_tables(tables, name, asked)
    return folder, lambda: _read_folders(folder, name, read, asked)


def _read_any(
    read: Callable[..., Layout], asked: LabelOptions, storage: Storage, top: Directory, name: str, depth: int = 0
) -> Layout:
    """The layout of the folders; where these are no classes, that of annotations in them, if there are any."""
    try:
        return read(storage, top, name, depth)
    except DataError:
        if not (annotations := find_annotations(storage, top)):
            raise
        return annotated_layout(annotations, storage, top, name, asked)


def _open_annotations(path: Path, root: Path | str | None, columns: Mapping[str, Any]) -> DataSource:
    """Open a file of annotations, or of records as in a manifest; its images are beside it, or in the folder above."""
    name, data = str(path), path.read_bytes()
    annotations = read_annotations(name, data)
    if annotations is None and path.suffix.lower() == ".xml":
        raise DataError(f"{name} has no annotations of CVAT. Expected its export 'CVAT for images 1.1'.")
    if annotations is None:
        return _open_manifest(path, root, False, columns)
    if columns["image_column"] or columns["label_column"]:
        raise UsageError(f"{name} has {annotations.kind} annotations, and no columns to name. Leave the options out.")
    folder = path.absolute().parent
    has_images = any(map(is_image, Folder(path.parent).top.files_below))
    if root is None and folder.name.lower() in _OF_ANNOTATIONS and not has_images:
        root = path.parent / ".." if path.parent.name in ("", "..") else path.parent.parent
    storage, location = _open_root(path, root)
    is_above = isinstance(location, Path) and location.resolve() == folder.resolve().parent
    file = f"{folder.name}/{path.name}" if is_above else path.name
    layout = annotated_layout({file: annotations}, storage, storage.top, name, columns["label_options"])
    return DataSource(storage, location, layout, isinstance(location, str))


def _read_folders(storage: Storage, name: str, read: Callable[..., Layout], asked: LabelOptions) -> Layout:
    return read_metadata(storage, storage.top, name, asked) or read(storage, storage.top, name)


def _read_archive(archive: Archive, read: Callable[..., Layout], asked: LabelOptions) -> Layout:
    name = str(archive.path)
    top, depth = _enter(archive.top)
    layout = read_metadata(archive, top, name, asked)
    if layout is None and is_tar(archive.path) and is_webdataset(archive):
        layout = read_webdataset({"": archive}, _class_names((archive, Folder(archive.path.parent))), name, asked)
    return _with_bad(layout or read(archive, top, name, depth), {"": archive})


def _with_bad(layout: Layout, archives: Mapping[str, Archive]) -> Layout:
    for name, archive in archives.items():
        layout.bad.extend(replace(bad, path=f"{name}/{bad.path}" if name else bad.path) for bad in archive.bad)
    return layout


def _enter(top: Directory) -> tuple[Directory, int]:
    """Enter folders that contain everything; returns the directory of the classes or parts, and its depth."""
    depth = 0
    while True:
        if len(top.folders) != 1 or any(is_image(file) for file in top.files) or has_metadata(top):
            return top, depth
        (only,) = top.folders
        inside = only.folders
        parts = parts_among(folder.name for folder in inside).values()
        # A folder of a class contains images, and that of a part contains classes: neither is entered.
        if not (inside or has_metadata(only)) or (part_of(only.name) and "train" not in parts):
            return top, depth
        top, depth = only, depth + 1


def _class_names(storages: Iterable[Storage]) -> list[str]:
    for storage in storages:
        for file in CLASS_FILES:
            if storage.exists(file):
                return class_names(storage.read(file), file)
    return []


def _open_manifest(path: Path | str, root: Path | str | None, remote: bool, columns: Mapping[str, Any]) -> DataSource:
    name = redact(str(path))
    storage, location = _open_root(path, root)
    if isinstance(path, Path):
        manifest = read_manifest(path, storage, **columns)
    else:
        try:
            manifest = parse_manifest(name, fetch(path), storage, **columns)
        except OSError as error:
            raise DataError(f"{name} cannot be read: {cause_of(error)}. Expected a readable file.") from None
    rows = manifest.rows
    links = [path for path in in_blocks(rows.paths) if is_url(path)]
    own = origin_of(path) if isinstance(path, str) else None
    others = [url for url in links if origin_of(url) != own]
    if others and not remote:
        raise UsageError(
            f"{name} names {pluralize(len(others), 'image')} elsewhere by URL, such as {redact(others[0])}. To fetch "
            "them, use --remote, or scan(path, remote=True) in Python."
        )
    inside = [url for url in links if leads_to_this_machine(url)] if isinstance(path, str) else []
    if inside:
        raise DataError(
            f"{name} is on a server and names files of this machine, or a chain of protocols, such as "
            f"{redact(inside[0])}. Expected relative paths, or URLs such as https://example.org/1.jpg. If the manifest "
            "is yours, download it first."
        )
    if links:
        urls = {redact(url): url for url in links}
        if len(urls) < len(links):
            raise DataError(f"{name} has URLs that differ only in their credentials. Keep one URL for each image.")
        storage = UrlStorage(storage, urls, path if isinstance(path, str) else "")
        rows = EntryTable(replace(row, path=redact(row.path)) if is_url(row.path) else row for row in rows)
    layout = layout_of(rows, name, task=manifest.task)
    layout = replace(layout, quantity=manifest.quantity, of_groups=manifest.of_groups)
    layout.notes.extend(manifest.notes)
    return DataSource(storage, location, layout, bool(links) or isinstance(location, str))


def _open_root(path: Path | str, root: Path | str | None) -> tuple[Storage, Path | str]:
    """The storage of a manifest's relative paths and its location: `root`, or the manifest's folder."""
    if root is not None:
        root = _resolve(root)
        return _open_storage(root)[0], root if isinstance(root, Path) else redact(root)
    if isinstance(path, Path):
        return Folder(path.parent), path.parent
    folder = parent_of(path)
    return WebFolder(folder) if is_web(path) else RemoteFolder(folder, listed=False), redact(folder)
