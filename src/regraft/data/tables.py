"""Images within Parquet files, as the `datasets` library writes them.

Enters: `.parquet` with a column `image` (the bytes of an image file, or a struct of `bytes` and `path`), one of labels,
and perhaps `split` and `group`. Leaves: a `Storage` and a `Layout`. Images are read a group of rows at a time, when
they are needed; the last few groups are kept.
"""

from __future__ import annotations

import bisect
import importlib
import itertools
import json
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from regraft.data.decode import ImageSource
from regraft.data.layout import Layout, layout_of, part_of_shard
from regraft.data.manifest import Cells, ManifestRow, check_rows, class_of, import_parquet, label_column
from regraft.data.spool import Spool
from regraft.data.storage import FILE_LIMIT, Directory, Listing, missing, stamp_of
from regraft.errors import DataError

#: Bytes of the groups of rows that are kept in memory.
_CACHE = 128 * 2**20
#: Bytes of a group of rows above which it is unpacked to the disk, and not read into memory.
_LARGE = 64 * 2**20
#: Images that are in memory at once while that is done.
_BATCH = 16
_IMAGE = "image"


class Cache:
    """The groups of rows that were used last, of any number of tables; safe to be used by several threads."""

    def __init__(self, limit: int = _CACHE) -> None:
        """Take the bytes that all of them may have; the last one is kept whatever it has."""
        self._limit, self._lock = limit, threading.Lock()
        self._kept: OrderedDict[tuple[Path, int], Any] = OrderedDict()

    def get(self, key: tuple[Path, int], load: Callable[[], Any]) -> Any:
        """The group of rows of a table, an Arrow array."""
        with self._lock:
            if key not in self._kept:
                self._kept[key] = load()
                while len(self._kept) > 1 and sum(group.nbytes for group in self._kept.values()) > self._limit:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(key)
            return self._kept[key]


class ImageTable:
    """A Parquet file with images; the name of one is its row, and the name that its file once had.

    Args:
        path: Of the file.
        cache: Where groups of rows are kept.

    Raises:
        DataError: It is damaged, has no column of images, or none of labels.
        MissingExtraError: pyarrow is not installed.
    """

    def __init__(self, path: Path, cache: Cache) -> None:
        """Read all but the images."""
        self.path, self._cache = path, cache
        self._parquet = _import()
        try:
            self._stat = os.stat(path)
            with self._parquet.ParquetFile(path) as file:
                self._metadata, schema = file.metadata, file.schema_arrow
                image = _image_column(schema)
                if len(set(schema.names)) < len(schema.names):
                    raise DataError(f"{path} has columns of one name: {', '.join(schema.names)}. Keep one of each.")
                if image is None:
                    raise DataError(
                        f"{path} has the columns {', '.join(schema.names) or '(none)'}, but none of images. Expected "
                        "`image` with the bytes of files (and `label`); a manifest with paths is named itself."
                    )
                table = file.read(columns=[*_plain_columns(schema), f"{image}.path"])
            values = {name: table.column(name).to_pylist() for name in table.column_names}
        except _faults() as error:
            raise DataError(f"{path} cannot be read as Parquet: {error}. Fetch it again.") from error
        self._column = f"{image}.bytes" if _is_struct(schema.field(image).type) else image
        paths = values.pop(image, [])
        columns = {name.strip().lower(): column for name, column in values.items()}
        rows = range(self._metadata.num_rows)
        self.names = [_name(row, paths[row] if paths else None) for row in rows]
        groups = range(self._metadata.num_row_groups)
        self._starts = [0, *itertools.accumulate(self._metadata.row_group(i).num_rows for i in groups)]
        self._spools: dict[int, tuple[Spool, list[tuple[int, int]]]] = {}
        self._lock = threading.Lock()
        classes = _classes(schema)
        only = list(classes) if len(classes) == 1 else []
        label = "label" if "label" in columns or not only else only[0]
        label = label if label in columns else label_column(str(path), list(columns), (image,))
        #: What the table says of each image; None: nothing.
        self.labels = [_label(value, classes.get(label, ()), str(path)) for value in columns[label]]
        self.splits = columns.get("split", columns.get("part"))
        self.groups = columns.get("group")

    @property
    def top(self) -> Directory:
        """The names of all rows."""
        return Listing.of(self.names)

    def exists(self, name: str) -> bool:
        """Whether there is a row of this name."""
        return self._row(name) is not None

    def read(self, name: str) -> bytes:
        """The bytes of the image in a row.

        Raises:
            OSError: The row has none, or they are too many, or the file is damaged or has changed.
        """
        row = self._row(name)
        if row is None:
            raise missing(name)
        group = bisect.bisect_right(self._starts, row) - 1
        number = row - self._starts[group]
        try:
            data = self._spooled(group, number) if self._is_large(group) else self._kept(group, number)
        except OSError:
            raise
        except _faults() as error:
            raise OSError(f"damaged: {error}") from error
        if data is None:
            raise OSError("no bytes of an image in this row; a path alone is not followed")
        return data

    def source(self, name: str) -> ImageSource:
        """Its bytes."""
        return self.read(name)

    def stamp(self, name: str) -> tuple[int, ...] | None:
        """Of the file; None if that is quite new."""
        return stamp_of(os.stat(self.path))

    def _row(self, name: str) -> int | None:
        number = name.partition("-")[0]
        row = int(number) if number.isdecimal() else -1
        return row if 0 <= row < len(self.names) and self.names[row] == name else None

    def _is_large(self, group: int) -> bool:
        described = self._metadata.row_group(group)
        columns = (described.column(i) for i in range(described.num_columns))
        size: int = sum(c.total_uncompressed_size for c in columns if c.path_in_schema == self._column)
        return size > _LARGE

    def _open(self) -> Any:
        stat = os.stat(self.path)
        if (stat.st_size, stat.st_mtime_ns, stat.st_ino) != (
            self._stat.st_size,
            self._stat.st_mtime_ns,
            self._stat.st_ino,
        ):
            raise OSError("the file has changed since it was opened")
        return self._parquet.ParquetFile(self.path, metadata=self._metadata, buffer_size=2**20, pre_buffer=False)

    def _kept(self, group: int, number: int) -> bytes | None:
        def load() -> Any:
            with self._open() as file:
                return file.read_row_group(group, columns=[self._column]).column(0)

        return _bytes(self._cache.get((self.path, group), load)[number])

    def _spooled(self, group: int, number: int) -> bytes | None:
        with self._lock:
            if group not in self._spools:
                places: list[tuple[int, int]] = []
                spool = Spool(self._images(group, places), str(self.path), "Write it anew with smaller groups of rows.")
                self._spools[group] = spool, places
            spool, places = self._spools[group]
        start, size = places[number]
        if size < 0:
            return None
        with spool.path.open("rb") as file:
            file.seek(start)
            return file.read(size)

    def _images(self, group: int, places: list[tuple[int, int]]) -> Iterator[bytes]:
        """The images of a group, one after the other; where each begins in all of them, and its size, into `places`."""
        start = 0
        with self._open() as file:
            for batch in file.iter_batches(_BATCH, row_groups=[group], columns=[self._column], use_threads=False):
                for value in batch.column(0):
                    data = _bytes(value)
                    places.append((start, -1 if data is None else len(data)))
                    start += len(data or b"")
                    yield data or b""


def is_image_table(path: Path) -> bool:
    """Whether a Parquet file holds images, and is no manifest.

    Raises:
        MissingExtraError: pyarrow is not installed.
    """
    parquet = _import()
    try:
        schema = parquet.read_schema(path)
        return "path" not in (name.strip().lower() for name in schema.names) and _image_column(schema) is not None
    except _faults():  # reading it as a manifest will tell
        return False


def read_tables(tables: Mapping[str, ImageTable], name: str) -> Layout:
    """The layout of tables.

    Args:
        tables: By their names; the name of a lone one is empty.
        name: Of the storage, for messages.

    Raises:
        DataError: A row is wrong, no row has a label, or some rows have a part and some have none.
    """
    rows: list[ManifestRow] = []
    unlabelled: list[str] = []
    for file, table in tables.items():
        prefix, part = (f"{file}/", part_of_shard(file)) if file else ("", None)
        splits = table.splits or [part] * len(table.names)
        groups = table.groups or [None] * len(table.names)
        cells: list[list[str]] = []
        for image, label, split, group in zip(table.names, table.labels, splits, groups, strict=True):
            if not label:
                unlabelled.append(prefix + image)
            cells.append([prefix + image, label, _text(split), _text(group)] if label else [])
        if any(cells):
            columns = ["path", "label", "split", "group"]
            rows += check_rows(str(table.path), Cells(columns, cells, first=0), lambda _: True)
    if not rows:
        raise DataError(f"{name} has no row with a label. Expected images with a column `label`.")
    layout = layout_of(rows, name, "some rows or files say train, val or test, and some do not. Expected all, or none.")
    layout.leave_out(unlabelled, "without a label")
    return layout


def _import() -> Any:
    return import_parquet("Reading a Parquet file")


def _faults() -> tuple[type[Exception], ...]:
    """What reading a damaged file raises."""
    return OSError, ValueError, importlib.import_module("pyarrow").ArrowException


def _image_column(schema: Any) -> str | None:
    """The column `image`, or the only one of structs with bytes."""
    types = {field.name: field.type for field in schema}
    structs = [name for name, kind in types.items() if _is_struct(kind)]
    if _IMAGE in types and (_IMAGE in structs or _is_binary(types[_IMAGE])):
        return _IMAGE
    return structs[0] if len(structs) == 1 else None


def _is_struct(kind: Any) -> bool:
    return str(kind).startswith("struct<") and any(f.name == "bytes" and _is_binary(f.type) for f in kind)


def _is_binary(kind: Any) -> bool:
    return str(kind) in ("binary", "large_binary", "binary_view")


def _plain_columns(schema: Any) -> list[str]:
    """Those whose values are no structs, lists or bytes."""
    return [f.name for f in schema if f.type.num_fields == 0 and not _is_binary(f.type)]


def _classes(schema: Any) -> dict[str, Sequence[str]]:
    """Names of the classes, by the lower-case names of the columns with their numbers, as `datasets` keeps them."""
    try:
        features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
        found = {column.strip().lower(): feature.get("names") for column, feature in features.items()}
    except (AttributeError, KeyError, TypeError, ValueError):  # written by another library
        return {}
    return {column: [str(name) for name in names] for column, names in found.items() if isinstance(names, list)}


def _label(value: Any, classes: Sequence[str], where: str) -> str:
    """A label's text; empty: none, for which `datasets` writes -1 where classes have names."""
    text = _text(value)
    return "" if classes and text == "-1" else class_of(text, classes, where)


def _text(value: Any) -> str:
    return "" if value is None else str(value).strip()


def _name(row: int, image: Any) -> str:
    """The name of a row: its number, and the name of the file that the image once was."""
    path = str((image or {}).get("path") or "")
    file = PurePosixPath(path.replace("\\", "/")).name
    return f"{row:07d}-{file}" if file else f"{row:07d}"


def _bytes(value: Any) -> bytes | None:
    """The bytes in an Arrow value: of its own, or of its field."""
    if not value.is_valid:
        return None
    if _is_struct(value.type):
        value = value["bytes"]
    buffer = value.as_buffer()
    if buffer is None:
        return None
    if buffer.size > FILE_LIMIT:
        raise OSError(f"{buffer.size:,} bytes, more than {FILE_LIMIT:,} allowed")
    data: bytes = buffer.to_pybytes()
    return data
