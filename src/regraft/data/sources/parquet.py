"""Read images inside Parquet files, as the `datasets` library writes them.

A file has a column `image` (bytes of an image file, or a struct of `bytes` and `path`), a column of labels, and
optionally `split` and `group`. Images are read one row group at a time when they are needed, and the most recent row
groups are cached.
"""

from __future__ import annotations

import bisect
import importlib
import itertools
import json
import os
import re
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from regraft.data.entries import EntryTable
from regraft.data.labels import UNSAID, LabelOptions
from regraft.data.sources.columns import ColumnFinder
from regraft.data.sources.folders import Layout, layout_of, part_of_shard
from regraft.data.sources.label_cells import form_of_texts
from regraft.data.sources.manifest import PART_NAMES, check_rows, class_of
from regraft.data.sources.spool import Spool
from regraft.data.sources.table import Cells, import_parquet, text_of
from regraft.data.storage import FILE_LIMIT, Directory, Listing, missing, stamp_of
from regraft.errors import DataError

#: Bytes of row groups that are cached in memory.
_CACHE = 128 * 2**20
#: Larger row groups, in bytes, are unpacked to disk instead of memory.
_LARGE = 64 * 2**20
#: Images in memory while a row group is unpacked to disk.
_BATCH = 16
_IMAGE = "image"


class RowGroupCache:
    """The most recently used row groups of any number of files; safe to use from several threads."""

    def __init__(self, limit: int = _CACHE) -> None:
        """Set the size limit in bytes; the last row group is kept even if it is larger."""
        self._limit, self._lock = limit, threading.Lock()
        self._groups: OrderedDict[tuple[Path, int], Any] = OrderedDict()

    def get(self, key: tuple[Path, int], load: Callable[[], Any]) -> Any:
        """A row group as an Arrow array."""
        with self._lock:
            if key not in self._groups:
                self._groups[key] = load()
                while len(self._groups) > 1 and sum(group.nbytes for group in self._groups.values()) > self._limit:
                    self._groups.popitem(last=False)
            self._groups.move_to_end(key)
            return self._groups[key]


class ParquetImages:
    """A Parquet file with images. The name of an image is its row number and, if known, its original file name.

    `labels` has an empty string for a row without one; `splits` and `groups` are None without such a column. Raises
    `DataError` if the file is damaged or has no column of images or of labels.
    """

    def __init__(self, path: Path, cache: RowGroupCache) -> None:
        self.path, self._cache = path, cache
        self._parquet = _import()
        try:
            self._stat = os.stat(path)
            with self._parquet.ParquetFile(path) as file:
                self._metadata, schema = file.metadata, file.schema_arrow
                image = _image_column(schema)
                if len(set(schema.names)) < len(schema.names):
                    raise DataError(f"{path} has duplicate columns: {', '.join(schema.names)}. Keep one of each.")
                if image is None:
                    raise DataError(
                        f"{path} has the columns {', '.join(schema.names) or '(none)'}, but no images. Expected "
                        "`image` with the bytes of image files, and `label`."
                    )
                table = file.read(columns=[*_plain_columns(schema), f"{image}.path"])
            values = {name: table.column(name).to_pylist() for name in table.column_names}
        except _parquet_errors() as error:
            raise DataError(f"{path} cannot be read as Parquet: {error}. Download it again.") from error
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
        if label not in columns:
            cells = Cells(list(columns), [list(map(text_of, row)) for row in zip(*columns.values(), strict=True)])
            label = cells.columns[ColumnFinder(str(path), cells, PART_NAMES).label()]
        self.labels = [_label(value, classes.get(label, ()), str(path)) for value in columns[label]]
        self.splits = columns.get("split", columns.get("part"))
        self.groups = columns.get("group")

    @property
    def top(self) -> Directory:
        """Root directory with the images of all rows."""
        return Listing.of(self.names)

    def exists(self, name: str) -> bool:
        """Whether there is an image of this name."""
        return self._row(name) is not None

    def read(self, name: str) -> bytes:
        """All bytes of an image; raises `OSError` if there are none or too many, or the file is damaged or changed."""
        row = self._row(name)
        if row is None:
            raise missing(name)
        group = bisect.bisect_right(self._starts, row) - 1
        number = row - self._starts[group]
        try:
            data = self._read_spooled(group, number) if self._is_large(group) else self._read_cached(group, number)
        except OSError:
            raise
        except _parquet_errors() as error:
            raise OSError(f"damaged: {error}") from error
        if data is None:
            raise OSError("no image bytes in this row; paths are not followed")
        return data

    source = read

    def stamp(self, name: str) -> tuple[int, ...] | None:
        """Stamp of the Parquet file."""
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
        now, before = os.stat(self.path), self._stat
        if (now.st_size, now.st_mtime_ns, now.st_ino) != (before.st_size, before.st_mtime_ns, before.st_ino):
            raise OSError("the file has changed since it was opened")
        return self._parquet.ParquetFile(self.path, metadata=self._metadata, buffer_size=2**20, pre_buffer=False)

    def _read_cached(self, group: int, number: int) -> bytes | None:
        def load() -> Any:
            with self._open() as file:
                return file.read_row_group(group, columns=[self._column]).column(0)

        return _bytes(self._cache.get((self.path, group), load)[number])

    def _read_spooled(self, group: int, number: int) -> bytes | None:
        with self._lock:
            if group not in self._spools:
                spans: list[tuple[int, int]] = []
                spool = Spool(self._images(group, spans), str(self.path), "Write it again with smaller row groups.")
                self._spools[group] = spool, spans
            spool, spans = self._spools[group]
        start, size = spans[number]
        if size < 0:
            return None
        with spool.path.open("rb") as file:
            file.seek(start)
            return file.read(size)

    def _images(self, group: int, spans: list[tuple[int, int]]) -> Iterator[bytes]:
        """The images of a row group, one after the other; appends their offsets and sizes to `spans`."""
        start = 0
        with self._open() as file:
            for batch in file.iter_batches(_BATCH, row_groups=[group], columns=[self._column], use_threads=False):
                for value in batch.column(0):
                    data = _bytes(value)
                    spans.append((start, -1 if data is None else len(data)))
                    start += len(data or b"")
                    yield data or b""


def is_parquet_images(path: Path) -> bool:
    """Whether a Parquet file contains images instead of paths."""
    parquet = _import()
    try:
        schema = parquet.read_schema(path)
        return "path" not in (name.strip().lower() for name in schema.names) and _image_column(schema) is not None
    except _parquet_errors():  # reading it as a manifest will raise the error
        return False


def read_tables(tables: Mapping[str, ParquetImages], name: str, label_options: LabelOptions = UNSAID) -> Layout:
    """Read the layout of Parquet files by their names; the name of a single file is empty.

    Raises `DataError` if a row is wrong, no row has a label, or some rows have a part and some have none.
    """
    rows, unlabeled = EntryTable(), list[str]()
    form = form_of_texts(Counter(label for table in tables.values() for label in table.labels), name, label_options)
    none = () if form.task == "multilabel" else ("", "[]")
    for file, table in tables.items():
        prefix, part = (f"{file}/", part_of_shard(file)) if file else ("", None)
        splits = table.splits or [part] * len(table.names)
        groups = table.groups or [None] * len(table.names)
        cells: list[list[str]] = []
        for image, label, split, group in zip(table.names, table.labels, splits, groups, strict=True):
            unlabeled += [prefix + image] if label in none else []
            cells.append([] if label in none else [prefix + image, label, _text(split), _text(group)])
        if any(cells):
            read = Cells(["path", "label", "split", "group"], cells, first=0)
            rows.extend(check_rows(str(table.path), read, lambda _: True, form=form))
    if not rows:
        raise DataError(f"{name} has no row with a label. Expected images with a column `label`.")
    mixed = "some rows or files say train, val or test, and some do not. Expected all, or none."
    layout = layout_of(rows, name, mixed, form.task)
    layout.notes.extend(form.notes)
    layout.ignore(unlabeled, "without a label")
    return layout


def _import() -> Any:
    return import_parquet("Reading a Parquet file")


def _parquet_errors() -> tuple[type[Exception], ...]:
    return OSError, ValueError, importlib.import_module("pyarrow").ArrowException


def _image_column(schema: Any) -> str | None:
    """The column `image`, or the only column of structs with bytes."""
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
    return [f.name for f in schema if not _is_binary(f.type) and (f.type.num_fields == 0 or _is_list(f.type))]


def _is_list(kind: Any) -> bool:
    """Whether a column has lists of names, or of numbers of classes."""
    return bool(re.fullmatch(r"(large_)?list(_view)?<[^:]+: (string|large_string|u?int\d+)( not null)?>.*", str(kind)))


def _classes(schema: Any) -> dict[str, Sequence[str]]:
    """Class names for each column of class numbers, by its lower-case name, from the metadata of `datasets`."""
    try:
        features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
        found = {column.strip().lower(): _names_of(feature) for column, feature in features.items()}
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, RecursionError):  # of another library
        return {}
    return {column: [str(name) for name in names] for column, names in found.items() if isinstance(names, list)}


def _names_of(feature: Any) -> Any:
    """The names of the classes of a column, or of those in its lists."""
    inner = feature.get("feature", feature) if isinstance(feature, dict) else feature[0]
    return inner.get("names")


def _label(value: Any, classes: Sequence[str], where: str) -> str:
    """The class name, or an empty string for a missing label, which is -1 if classes have names; or a JSON list."""
    if isinstance(value, list):
        return json.dumps([class_of(_text(one), classes, where) for one in value], ensure_ascii=False)
    text = _text(value)
    return "" if classes and text == "-1" else class_of(text, classes, where)


def _text(value: Any) -> str:
    return text_of(value).strip()


def _name(row: int, image: Any) -> str:
    path = str((image or {}).get("path") or "")
    file = PurePosixPath(path.replace("\\", "/")).name
    return f"{row:07d}-{file}" if file else f"{row:07d}"


def _bytes(value: Any) -> bytes | None:
    if not value.is_valid:
        return None
    if _is_struct(value.type):
        value = value["bytes"]
    buffer = value.as_buffer()
    if buffer is not None and buffer.size > FILE_LIMIT:
        raise OSError(f"{buffer.size:,} bytes, more than {FILE_LIMIT:,} allowed")
    return None if buffer is None else bytes(buffer.to_pybytes())
