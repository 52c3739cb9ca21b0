"""Labels in a `metadata` table beside the images: the `imagefolder` of the `datasets` library.

Enters: a storage with `metadata.csv`, `.jsonl` or `.parquet` in its top or in each part's folder; its columns are
`file_name`, one of labels, and perhaps `split` and `group`. Leaves: a `Layout`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath

from regraft.data.dataset import Part
from regraft.data.layout import Found, Layout, is_image, layout_of
from regraft.data.manifest import PART_NAMES, Cells, ManifestRow, check_rows, label_column, read_cells
from regraft.data.storage import Directory, Storage
from regraft.errors import DataError

NAMES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
_FILE = "file_name"


def read_metadata(storage: Storage, top: Directory, name: str) -> Layout | None:
    """The layout that metadata tell.

    Args:
        storage: What holds the files.
        top: Its top, or a folder in it.
        name: Of the storage, for messages.

    Returns:
        None where there are none, or none with `file_name`.

    Raises:
        DataError: There are several for one folder, the columns are unclear, a row is wrong, or two folders are of
            the same part.
        OSError: A file or folder cannot be read.
    """
    tables = list(_tables(storage, top, None, name))
    if not tables:
        for folder in top.folders:
            if part := PART_NAMES.get(folder.name.lower()):
                tables += _tables(storage, folder, part, name)
    if not tables:
        return None
    files = set(top.files_below)
    found: list[Found] = []
    for file, cells, part in tables:
        prefix = file[: file.rfind("/") + 1]
        rows = _rows(f"{name}: {file}", cells, prefix, files)
        for row in _with_parts(rows) if part is None else rows:
            if part and row.part not in (None, part):
                raise DataError(f"{name}: {file} has rows for {row.part}, but lies in the folder of {part}.")
            found.append(Found(prefix + row.path, row.label, part or row.part, row.group))
    layout = layout_of(found, name)
    named = {f.path for f in found}
    of_tables = {file for file, _, _ in tables}
    others = sorted(files - named - of_tables)
    layout.ignored.extend(file for file in others if not is_image(file))
    layout.leave_out([file for file in others if is_image(file)], f"not in {' and '.join(sorted(of_tables))}")
    return layout


def has_metadata(folder: Directory) -> bool:
    """Whether a folder has a file of such a name."""
    return any(PurePosixPath(file).name.lower() in NAMES for file in folder.files)


def _tables(
    storage: Storage, folder: Directory, part: Part | None, name: str
) -> Iterator[tuple[str, Cells, Part | None]]:
    """The one table that stands for a folder, if any."""
    tables = []
    for file in folder.files:
        if PurePosixPath(file).name.lower() in NAMES:
            data = storage.read(file)
            cells = (
                read_cells(f"{name}: {file}", data) if _FILE.encode() in data.lower() else Cells([], [])
            )  # something else's
            if _FILE in (column.strip().lower() for column in cells.columns):
                tables.append((file, cells, part))
    if len(tables) > 1:
        raise DataError(f"{name} has {' and '.join(file for file, _, _ in tables)}. Keep one of them.")
    yield from tables


def _rows(name: str, cells: Cells, prefix: str, files: set[str]) -> list[ManifestRow]:
    columns = [column.strip().lower() for column in cells.columns]
    label = label_column(name, columns, (_FILE,))
    meaning = {"path": "", _FILE: "path", label: "label"}
    renamed = [meaning.get(column, column) for column in columns]
    return check_rows(name, Cells(renamed, cells.rows, cells.first), lambda file: prefix + file in files)


def _with_parts(rows: list[ManifestRow]) -> list[ManifestRow]:
    """The rows; where none has a part and all their files lie in folders for parts, with those."""
    folders = [PART_NAMES.get(row.path.partition("/")[0].lower()) if "/" in row.path else None for row in rows]
    if any(row.part for row in rows) or "train" not in folders or None in folders:
        return rows
    return [ManifestRow(row.path, row.label, part, row.group) for row, part in zip(rows, folders, strict=True)]
