"""Manifests: a table that names each image and its label.

Enters: a CSV or Parquet file with the columns `path,label[,split][,group]`; paths are relative to the file's
folder or absolute. Leaves: rows, checked; every fault of the file is reported at once.
"""

from __future__ import annotations

import csv
import importlib
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from regraft.data.dataset import Part
from regraft.data.storage import Folder, Storage
from regraft.data.urls import is_url, shown, suffix_of
from regraft.errors import DataError, MissingExtraError, listed

SUFFIXES = (".csv", ".parquet")

#: Folder and manifest spellings of the three parts (lower case).
PART_NAMES: dict[str, Part] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}
_KNOWN = ("path", "label", "split", "group")
_SHOWN = 10


@dataclass(frozen=True)
class ManifestRow:
    """One row, with the path and the part's name in their one spelling."""

    path: str
    label: str
    part: Part | None
    group: str | None


@dataclass(frozen=True)
class Cells:
    """A table of texts; a row may be shorter than the columns, or empty.

    Attributes:
        columns: Names, as they are written.
        rows: An empty text is an empty cell.
        first: Number of the first row, as a person counts them.
    """

    columns: list[str]
    rows: Sequence[list[str]]
    first: int = 2


def read_manifest(path: Path, storage: Storage | None = None) -> list[ManifestRow]:
    """Read a manifest whose relative paths are names in `storage`; default: its own folder.

    Raises:
        DataError: As `check_rows`, or the file cannot be read.
        MissingExtraError: It is a Parquet file and pyarrow is not installed.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}. Expected a file that you may read.") from error
    return check_rows(str(path), read_cells(str(path), data), (storage or Folder(path.parent)).exists)


def read_cells(name: str, data: bytes) -> Cells:
    """The table in a file, by its ending: .csv, .parquet, or .jsonl (an object a line).

    Raises:
        DataError: It is no such table.
        MissingExtraError: It is a Parquet file and pyarrow is not installed.
    """
    read = {".parquet": _read_parquet, ".jsonl": _read_lines}.get(suffix_of(name), _read_csv)
    return read(name, data)


def check_rows(path: str, cells: Cells, exists: Callable[[str], bool]) -> list[ManifestRow]:
    """The rows of a manifest.

    `part` is accepted for `split`, so that a run's own `split.csv` is a manifest. Columns of other names are
    ignored, as are blanks around a cell. A path that is a URL stays as it is.

    Args:
        path: Of the manifest, for messages.
        cells: What it holds.
        exists: Whether there is a file of a name.

    Raises:
        DataError: Columns are missing or come twice, a label or path is empty, a split has an unknown name, a
            path comes twice, or a group is in several parts.
    """
    columns = [name.strip().lower() for name in cells.columns]
    names = {name: i for i, name in enumerate(columns)}
    if twice := [name for name in (*_KNOWN, "part") if columns.count(name) > 1]:
        raise DataError(f"{path} has several columns named {' and '.join(twice)}. Keep one of them.")
    if "split" not in names and "part" in names:
        names["split"] = names["part"]
    missing = [name for name in ("path", "label") if name not in names]
    if missing:
        raise DataError(
            f"{path} has the columns {', '.join(columns) or '(none)'} but not {' and '.join(missing)}. "
            "Expected: path,label[,split][,group]."
        )
    rows: list[ManifestRow] = []
    faults: list[str] = []
    seen: dict[str, int] = {}
    parts_of: dict[str, Part] = {}
    for number, row in enumerate(cells.rows, start=cells.first):
        if not row:
            continue
        value = {name: row[names[name]] if names[name] < len(row) else "" for name in _KNOWN if name in names}
        file, (label, raw, group) = value["path"], (value.get(name, "").strip() for name in _KNOWN[1:])
        part = PART_NAMES.get(raw.lower())
        name = _spelling(file, exists)
        if not file.strip():
            faults.append(f"row {number}: no path")
        elif not label:
            faults.append(f"row {number}: no label for {shown(file)}")
        elif raw and part is None:
            faults.append(f"row {number}: split {raw!r}; expected train, val or test")
        elif name in seen:
            faults.append(f"row {number}: {shown(name)} again, first in row {seen[name]}")
        elif group and part and parts_of.setdefault(group, part) != part:
            faults.append(f"row {number}: group {group!r} in {part}, before in {parts_of[group]}; expected one part")
        else:
            seen[name] = number
            rows.append(ManifestRow(name, label, part, group or None))
    if faults:
        more = f"\n  and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
        count = f"{len(faults)} fault{'s' * (len(faults) > 1)}"
        raise DataError(f"{path} has {count}:\n  " + "\n  ".join(faults[:_SHOWN]) + more)
    if not rows:
        raise DataError(f"{path} has no rows. Expected one for each image: path,label[,split][,group].")
    return rows


def label_column(path: str, columns: Sequence[str], others: Sequence[str]) -> str:
    """The column with the labels: `label`, or the only one of unknown meaning.

    Args:
        path: Of the table, for messages.
        columns: Names, lower case.
        others: Names of columns with another meaning; `split`, `part` and `group` have one in any case.

    Raises:
        DataError: There is none, or there are several.
    """
    if "label" in columns:
        return "label"
    left = [name for name in columns if name and name not in (*others, *_KNOWN, "part")]
    if len(left) == 1:
        return left[0]
    found = f"several columns that might hold the labels: {listed(left)}" if left else "no column with the labels"
    raise DataError(f"{path} has {found}. Name the one that does `label`.")


def class_of(label: str, classes: Sequence[str], where: str) -> str:
    """The class of a label: the name of its number, where numbers have names.

    Raises:
        DataError: The number has none.
    """
    if not classes or not label.lstrip("-").isdecimal():
        return label  # a name; a class may be called "2", but where numbers have names, 2 is a number
    if not 0 <= int(label) < len(classes):
        raise DataError(f"{where} has the label {label}, but there are names for 0 to {len(classes) - 1} only.")
    return classes[int(label)]


def import_parquet(what: str) -> Any:
    """The module of pyarrow that reads Parquet files.

    Raises:
        MissingExtraError: It is not installed; the message says that `what` needs it.
    """
    try:
        return importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise MissingExtraError(what, "parquet") from error


def _spelling(file: str, exists: Callable[[str], bool]) -> str:
    """The path as it is found from here: perhaps without blanks around it, perhaps written on Windows."""
    bare = file.strip()
    if is_url(bare):
        return bare
    found = (name for name in (file, bare, bare.replace("\\", "/")) if exists(Path(name).as_posix()))
    return Path(next(found, file)).as_posix()


def _read_csv(name: str, data: bytes) -> Cells:
    try:
        reader = csv.reader(io.StringIO(data.decode("utf-8-sig"), newline=""))
        columns = next(reader, [])
        return Cells(columns, [row if any(cell.strip() for cell in row) else [] for row in reader])
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{name} cannot be read as CSV in UTF-8: {error}") from error


def _read_parquet(name: str, data: bytes) -> Cells:
    parquet = import_parquet("Reading a Parquet manifest")
    try:
        table = parquet.read_table(io.BytesIO(data))
    except (OSError, ValueError) as error:  # pyarrow's ArrowInvalid is a ValueError
        raise DataError(f"{name} cannot be read as Parquet: {error}") from error
    columns = [["" if cell is None else str(cell) for cell in column.to_pylist()] for column in table.columns]
    return Cells(list(table.column_names), [list(row) for row in zip(*columns, strict=True)])


def _read_lines(name: str, data: bytes) -> Cells:
    """JSON lines; values that are lists or objects are left out."""
    rows: list[dict[str, str]] = []
    try:
        for line in data.decode("utf-8-sig").split("\n"):
            values = json.loads(line) if line.strip() else {}
            rows.append({k: "" if v is None else str(v) for k, v in values.items() if not isinstance(v, list | dict)})
    except (ValueError, AttributeError, RecursionError) as error:
        raise DataError(
            f"{name}, line {len(rows) + 1}, cannot be read as a JSON object in UTF-8: {error}. "
            'Expected lines such as {"file_name": "1.jpg", "label": "cat"}.'
        ) from error
    columns = list(dict.fromkeys(column for row in rows for column in row))
    return Cells(columns, [[row.get(column, "") for column in columns] if row else [] for row in rows], first=1)
