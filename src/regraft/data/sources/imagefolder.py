"""Read labels from a `metadata` table beside the images: the `imagefolder` format of the `datasets` library.

`metadata.csv`, `.jsonl` or `.parquet` is in the storage's root or in each part's folder. Its columns are `file_name`,
the labels, and optionally `split` and `group`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import PurePosixPath

from regraft.data.dataset import Part
from regraft.data.entries import EntryTable, ImageEntry
from regraft.data.labels import UNSAID, LabelOptions
from regraft.data.sources.columns import ColumnFinder
from regraft.data.sources.folders import Layout, layout_of
from regraft.data.sources.label_cells import form_of_tables
from regraft.data.sources.manifest import PART_NAMES, check_rows
from regraft.data.sources.part_names import part_of
from regraft.data.sources.table import Cells, read_cells
from regraft.data.storage import Directory, Storage, is_image
from regraft.errors import DataError

NAMES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
_FILE = "file_name"


def read_metadata(storage: Storage, top: Directory, name: str, label_options: LabelOptions = UNSAID) -> Layout | None:
    """Read the layout from metadata tables in or below `top`; None if none has the column `file_name`.

    Raises `DataError` if a folder has several tables, the columns are ambiguous, a row is wrong, or two folders are of
    the same part; `OSError` if a file or folder cannot be read.
    """
    tables = list(_tables(storage, top, None, name))
    if not tables:
        for folder in top.folders:
            if part := part_of(folder.name):
                tables += _tables(storage, folder, part, name)
    if not tables:
        return None
    files = set(top.files_below)
    found, notes = EntryTable(), list[str]()
    columns_of = {file: ColumnFinder(f"{name}: {file}", cells, PART_NAMES).find(_FILE) for file, cells, _ in tables}
    form = form_of_tables([(cells, columns_of[file]) for file, cells, _ in tables], name, label_options)
    for file, cells, part in tables:
        prefix = file[: file.rfind("/") + 1]
        where, columns = f"{name}: {file}", columns_of[file]
        notes += columns.notes
        below = {file.removeprefix(prefix) for file in files if file.startswith(prefix)}
        rows = check_rows(where, cells, below.__contains__, columns, form)
        for row in _with_parts(rows) if part is None else rows:
            if part and row.part not in (None, part):
                raise DataError(f"{name}: {file} has rows for {row.part}, but is in the folder of {part}.")
            found.append(replace(row, path=prefix + row.path, part=part or row.part))
    layout = layout_of(found, name, task=form.task)
    layout.notes.extend([*notes, *form.notes])
    table_files = {file for file, _, _ in tables}
    others = sorted(files.difference(found.paths.tolist()) - table_files)
    layout.ignored.extend(file for file in others if not is_image(file))
    layout.ignore([file for file in others if is_image(file)], f"not in {' and '.join(sorted(table_files))}")
    return layout


def has_metadata(folder: Directory) -> bool:
    """Whether a folder contains a file with the name of a metadata table."""
    return any(PurePosixPath(file).name.lower() in NAMES for file in folder.files)


def _tables(
    storage: Storage, folder: Directory, part: Part | None, name: str
) -> Iterator[tuple[str, Cells, Part | None]]:
    tables = []
    for file in folder.files:
        if PurePosixPath(file).name.lower() in NAMES:
            data = storage.read(file)
            # A table without the column may be in any format and belongs to another program.
            cells = read_cells(f"{name}: {file}", data) if _FILE.encode() in data.lower() else Cells([], [])
            if _FILE in (column.strip().lower() for column in cells.columns):
                tables.append((file, cells, part))
    if len(tables) > 1:
        raise DataError(f"{name} has {' and '.join(file for file, _, _ in tables)}. Keep one of them.")
    yield from tables


def _with_parts(rows: Sequence[ImageEntry]) -> Sequence[ImageEntry]:
    """The rows; if no row has a part but all files are in folders for parts, with these parts."""
    folders = [part_of(row.path.partition("/")[0]) if "/" in row.path else None for row in rows]
    if any(row.part for row in rows) or "train" not in folders or None in folders:
        return rows
    return [replace(row, part=part) for row, part in zip(rows, folders, strict=True)]
