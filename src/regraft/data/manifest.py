"""Manifests: a table that names each image and its label.

Enters: a CSV or Parquet file with the columns `path,label[,split][,group]`; paths are relative to the file's
folder or absolute. Leaves: rows, checked; every fault of the file is reported at once.
"""

from __future__ import annotations

import csv
import importlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from regraft.data.dataset import Part
from regraft.errors import DataError, MissingExtraError

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


def read_manifest(path: Path, root: Path | None = None) -> list[ManifestRow]:
    """Read a manifest whose relative paths start from `root`; default: its own folder.

    `part` is accepted for `split`, so that a run's own `split.csv` is a manifest. Columns of other names are
    ignored, as are blanks around a cell.

    Raises:
        DataError: Columns are missing or come twice, a label or path is empty, a split has an unknown name, a
            path comes twice, or a group is in several parts.
        MissingExtraError: It is a Parquet file and pyarrow is not installed.
    """
    columns, table = _read_parquet(path) if path.suffix.lower() == ".parquet" else _read_csv(path)
    columns = [name.strip().lower() for name in columns]
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
    for number, cells in enumerate(table, start=2):
        if not cells:
            continue
        value = {name: cells[names[name]] if names[name] < len(cells) else "" for name in _KNOWN if name in names}
        file, (label, raw, group) = value["path"], (value.get(name, "").strip() for name in _KNOWN[1:])
        part = PART_NAMES.get(raw.lower())
        name = _spelling(root or path.parent, file)
        if not file.strip():
            faults.append(f"row {number}: no path")
        elif not label:
            faults.append(f"row {number}: no label for {file}")
        elif raw and part is None:
            faults.append(f"row {number}: split {raw!r}; expected train, val or test")
        elif name in seen:
            faults.append(f"row {number}: {name} again, first in row {seen[name]}")
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


def _spelling(folder: Path, file: str) -> str:
    """The path as it is found from here: perhaps without blanks around it, perhaps written on Windows."""
    bare = file.strip()
    found = (name for name in (file, bare, bare.replace("\\", "/")) if os.path.exists(folder / name))
    return Path(next(found, file)).as_posix()


def _read_csv(path: Path) -> tuple[list[str], list[list[str]]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            columns = next(reader, [])
            return columns, [row if any(cell.strip() for cell in row) else [] for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as CSV in UTF-8: {error}") from error


def _read_parquet(path: Path) -> tuple[list[str], Sequence[list[str]]]:
    try:
        parquet: Any = importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise MissingExtraError("Reading a Parquet manifest", "parquet") from error
    try:
        table = parquet.read_table(path)
    except (OSError, ValueError) as error:  # pyarrow's ArrowInvalid is a ValueError
        raise DataError(f"{path} cannot be read as Parquet: {error}") from error
    cells = [["" if cell is None else str(cell) for cell in column.to_pylist()] for column in table.columns]
    return list(table.column_names), [list(row) for row in zip(*cells, strict=True)]
