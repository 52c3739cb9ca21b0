"""Manifests: a table that names each image and its label.

Enters: a CSV or Parquet file with the columns `path,label[,split][,group]`; paths are relative to the file's folder or absolute.
Leaves: rows, checked; every fault of the file is reported at once.
"""

from __future__ import annotations

import csv
import importlib
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
    """One row, with the part's name in its one spelling."""

    path: str
    label: str
    part: Part | None
    group: str | None


def read_manifest(path: Path) -> list[ManifestRow]:
    """Read a manifest.

    `part` is accepted for `split`, so that a run's own `split.csv` is a manifest. Columns of other names are ignored.

    Raises:
        DataError: Columns are missing, a label or path is empty, a split has an unknown name, or a path comes twice.
        MissingExtraError: It is a Parquet file and pyarrow is not installed.
    """
    columns, table = _read_parquet(path) if path.suffix.lower() == ".parquet" else _read_csv(path)
    names = {name.strip().lower(): i for i, name in enumerate(columns)}
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
    for number, cells in enumerate(table, start=2):
        value = {name: cells[names[name]] if names[name] < len(cells) else "" for name in _KNOWN if name in names}
        raw = value.get("split", "")
        part = PART_NAMES.get(raw.strip().lower())
        if not value["path"]:
            faults.append(f"row {number}: no path")
        elif value["label"] == "":
            faults.append(f"row {number}: no label for {value['path']}")
        elif raw and part is None:
            faults.append(f"row {number}: split {raw!r}; expected train, val or test")
        elif value["path"] in seen:
            faults.append(f"row {number}: {value['path']} again, first in row {seen[value['path']]}")
        else:
            seen[value["path"]] = number
            rows.append(ManifestRow(value["path"], value["label"], part, value.get("group") or None))
    if faults:
        more = f"\n  and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
        raise DataError(f"{path} has {len(faults)} faults:\n  " + "\n  ".join(faults[:_SHOWN]) + more)
    return rows


def _read_csv(path: Path) -> tuple[list[str], list[list[str]]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            columns = next(reader, [])
            return columns, [row for row in reader if any(cell.strip() for cell in row)]
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
