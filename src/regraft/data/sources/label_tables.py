"""Read the labels of a folder without class folders from a table in it or beside it, as Kaggle and Roboflow have them.

The table has a column with the names of the images (with or without folder and extension), and one with the labels or
one for each class with 0 and 1. A `.txt` file has no header: name, tab, label.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from regraft.data.entries import ImageEntry
from regraft.data.samples import Part
from regraft.data.sources.columns import ColumnFinder, Columns
from regraft.data.sources.label_cells import LabelForm
from regraft.data.sources.manifest import PART_NAMES, check_rows
from regraft.data.sources.table import Cells, read_cells
from regraft.data.storage import Storage
from regraft.text import pluralize


@dataclass(frozen=True)
class LabelTable:
    """A table with the labels of images of a part, whose rows name these images; a `note` says where it was found."""

    where: str
    cells: Cells
    columns: Columns
    images: Sequence[str]
    part: Part | None
    note: str

    def entries(self, form: LabelForm) -> list[ImageEntry]:
        """The labeled images; raises `DataError` if labels are ambiguous."""
        rows = check_rows(self.where, self.cells, set(self.images).__contains__, self.columns, form)
        return [ImageEntry(row.path, row.label, self.part) for row in rows]


def find_label_table(
    storage: Storage, name: str, images: Sequence[str], tables: Sequence[str], part: Part | None
) -> LabelTable | None:
    """The first of `tables` that names some of `images` and has labels.

    Raises `DataError` if its columns are ambiguous.
    """
    by_name: dict[str, str] = {}
    for image in images:
        path = PurePosixPath(image)
        by_name[path.name] = image
        by_name.setdefault(path.stem, image)
    for table in tables:
        where, cells = f"{name}: {table}", _read(storage, name, table, by_name)
        width = len(cells.columns)
        named = next((i for i in range(width) if any(_name(row, i) in by_name for row in cells.rows)), None)
        if named is None or width < 2:
            continue
        columns = ColumnFinder(where, cells, PART_NAMES).find(cells.columns[named])
        found = [by_name.get(_name(row, named)) for row in cells.rows]
        pairs = zip(found, cells.rows, strict=True)
        rows = [[*row[:named], file, *row[named + 1 :]] if file else [] for file, row in pairs]
        roboflow = "Roboflow export: " if PurePosixPath(table).name == "_classes.csv" else ""
        of = f" of {part}" if part and not roboflow else ""
        note = f"{roboflow}labels{of} from {PurePosixPath(table).name if roboflow else table}."
        if unlabeled := len(images) - len({file for file in found if file}):
            note += f" It does not name {pluralize(unlabeled, 'image')}."
        if missing := sum(file is None and bool(row) for file, row in zip(found, cells.rows, strict=True)):
            note += f" {missing:,} of its rows {'names' if missing == 1 else 'name'} no image there."
        note = note[0].upper() + note[1:]
        return LabelTable(where, replace(cells, rows=rows), columns, images, part, note)
    return None


def is_table(file: str, words: Sequence[str]) -> bool:
    """Whether a file's name is that of a table with labels: `labels.csv`, or one that has one of these words."""
    path = PurePosixPath(file.lower())
    found = set(re.split(r"[^a-z]+", path.stem))
    wanted = {"labels", "label", "annotations", "classes", *words}
    return bool(path.suffix in (".csv", ".txt") and found & wanted and not found & {"submission", "ids"})


def _read(storage: Storage, name: str, table: str, by_name: dict[str, str]) -> Cells:
    data = storage.read(table)
    if not table.lower().endswith(".txt"):
        cells = read_cells(f"{name}: {table}", data)
        # Kaggle's ImageNet has "n01751748 111 108 230 396", a class and its box.
        boxes = [i for i, column in enumerate(cells.columns) if column.strip().lower() == "predictionstring"]
        if not boxes:
            return cells
        rows = [[cell.split(" ")[0] if i in boxes else cell for i, cell in enumerate(row)] for row in cells.rows]
        return replace(cells, rows=rows)
    rows = [line.split("\t") for line in data.decode("utf-8", "replace").splitlines()]
    has_labels = rows and len(rows[0]) > 1 and _name(rows[0], 0) in by_name
    return Cells(["file", "label"], [row[:2] for row in rows]) if has_labels else Cells([], [])


def _name(row: Sequence[str], column: int) -> str:
    return PurePosixPath(row[column].strip().replace("\\", "/")).name if column < len(row) else ""
