"""Read a manifest: a CSV or Parquet table `path,label[,split][,group]` with a row for each image.

Paths are absolute or relative to the file's folder. All errors of a file are reported at once.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from regraft.data.entries import EntryTable, ImageEntry
from regraft.data.labels import UNSAID, LabelOptions, Task, join_labels, names_in, split_labels
from regraft.data.samples import Part
from regraft.data.sources.columns import NO_TABLE, ColumnFinder, Columns, GroupColumns
from regraft.data.sources.file_finder import FileFinder
from regraft.data.sources.label_cells import (
    ADVICE,
    ONE_LABEL,
    SEPARATOR_ADVICE,
    LabelForm,
    SeveralLabelsError,
    form_of_tables,
)
from regraft.data.sources.table import MAX_ERRORS, Cells, read_cells
from regraft.data.sources.urls import redact
from regraft.data.storage import Directory, Folder, Listing, Storage
from regraft.errors import DataError
from regraft.text import join_truncated, pluralize

#: Names of the three parts in folders and manifests, in lower case.
PART_NAMES: dict[str, Part] = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
_COLUMNS = ("path", "label", "split", "group")


#: Quotation marks that CSV does not know, and separators of other tables.
_QUOTES = " ;|'\"`\u2018\u2019\u201c\u201d"


@dataclass(frozen=True)
class Manifest:
    """The rows of a manifest, and sentences on what was recognized, of groups too."""

    rows: EntryTable
    notes: list[str]
    task: Task = "classification"
    quantity: str = "value"
    of_groups: GroupColumns = NO_TABLE


def read_manifest(path: Path, storage: Storage | None = None, **options: Any) -> Manifest:
    """Read the manifest at `path` as `parse_manifest` does; images are by default in the manifest's own folder."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}. Expected a readable file.") from error
    return parse_manifest(str(path), data, storage or Folder(path.parent), **options)


def parse_manifest(
    name: str,
    data: bytes,
    storage: Storage,
    *,
    image_column: str = "",
    label_column: str = "",
    labeled: bool = True,
    label_options: LabelOptions = UNSAID,
    group_by: str = "",
    pool_by: str = "",
) -> Manifest:
    """Read a manifest whose relative paths are names in `storage`; `name` is for messages.

    `image_column` and `label_column` name columns that their names and contents do not reveal; several names with
    commas between them are those of columns with 0 and 1. Files that are not where a path leads are searched for by
    the end of the path, with or without extension. Without `labeled`, labels and parts do not count, and the label of
    every image is empty. `group_by` may name the column of the groups, and `pool_by` that of those which get one answer
    each. `label_options` say whether images have several
    labels, and how they are written. If they have numbers, labels are any texts, for `with_numbers`, and the quantity
    is the name of their column. Raises `DataError` as `check_rows` does, and if it is unclear which column or which
    file is meant.
    """
    cells = read_cells(name, data)
    # A web server does not know which files it has, and says yes to all.
    exists = (lambda _: False) if storage.exists("no such file") else storage.exists
    finder = ColumnFinder(name, cells, PART_NAMES, exists)
    has_numbers = labeled and label_options.task == "regression"
    if labeled:
        columns = finder.find(image_column, label_column, numbers=has_numbers, group_by=group_by, pool_by=pool_by)
    else:
        columns = finder.find_images(image_column, group_by)
    form = form_of_tables([(cells, columns)], name, label_options)
    table = _Rows(name, cells, columns, storage.exists, storage.top, form)
    quantity = cells.columns[columns.labels[0]].strip() if has_numbers else "value"
    notes = [*cells.notes, *columns.notes, *form.notes]
    return Manifest(table.read(), [*notes, *table.notes], form.task, quantity, columns.of_groups)


def check_rows(
    name: str,
    cells: Cells,
    exists: Callable[[str], bool],
    columns: Columns | None = None,
    form: LabelForm = ONE_LABEL,
) -> EntryTable:
    """Validate rows with the given columns, or `path`, `label`, and optionally `split` (or `part`) and `group`.

    Other columns and spaces around cells are ignored. `exists` knows the files; a path may also be a URL. Raises
    `DataError` if a column is missing, a path is empty, a split has an unknown name, or a group is in several parts;
    and if a label is empty, an image has two labels or a cell has several, where the form is that of one label.
    """
    columns = columns or ColumnFinder(name, cells, PART_NAMES).find("path", "label")
    return _Rows(name, cells, columns, exists, Listing(), form).read()


class _Rows:
    """The rows of a table, read and validated; `top` lists the files that are searched for."""

    def __init__(
        self,
        name: str,
        cells: Cells,
        columns: Columns,
        exists: Callable[[str], bool],
        top: Directory,
        form: LabelForm,
    ) -> None:
        self._name, self._cells, self._columns, self._exists, self._form = name, cells, columns, exists, form
        self._finder = FileFinder(exists, top)
        self._errors = list[tuple[int, str]]()
        self._repeated = self._united = 0
        self._may_be_several = False

    @property
    def notes(self) -> list[str]:
        """Sentences on files that were found elsewhere and on repeated rows."""
        notes = []
        if moved := self._finder.moved:
            path, file = next(iter(moved.items()))
            count = pluralize(len(moved), "image")
            notes.append(f"{self._name}: {count} found by the ends of the paths, for example {path} as {file}.")
        if self._repeated:
            notes.append(f"{self._name}: {pluralize(self._repeated, 'row')} repeated and ignored.")
        if self._united:
            rows = pluralize(self._united, "row names an image again", "rows name images again")
            notes.append(f"{self._name}: {rows} with other labels: an image has those of all its rows.")
        return notes

    def read(self) -> EntryTable:
        """Read all rows; raises `DataError` with all errors at once."""
        entries, numbers = EntryTable(), array("q")
        parts_of: dict[str, Part] = {}
        for number, row in enumerate(self._cells.rows):
            if not row:
                continue
            try:
                entry = self._entry(row)
                if entry.group and entry.part and parts_of.setdefault(entry.group, entry.part) != entry.part:
                    before = parts_of[entry.group]
                    raise ValueError(f"group {entry.group!r} in {entry.part}, before in {before}; expected one part")
            except ValueError as error:
                self._errors.append((number, str(error)))
                self._may_be_several |= isinstance(error, SeveralLabelsError)
                continue
            entries.append(entry)
            numbers.append(number)
        first_rows = entries.first_rows()
        is_first = first_rows == np.arange(len(entries))
        united = dict[int, set[str]]()
        for i in np.flatnonzero(~is_first).tolist():
            first = int(first_rows[i])
            entry, other = entries[i], entries[first]
            if self._form.unites and entry.label != other.label and replace(entry, label=other.label) == other:
                united.setdefault(first, set(split_labels(other.label))).update(split_labels(entry.label))
                self._united += 1
            elif problem := self._contradiction(entry, other, self._cells.place(numbers[first])):
                self._errors.append((numbers[i], problem))
            else:
                self._repeated += 1
        if united:
            entries = EntryTable(
                replace(entry, label=join_labels(united[i])) if i in united else entry
                for i, entry in enumerate(entries)
            )
        errors = [f"{self._cells.place(number)}: {error}" for number, error in sorted(self._errors)]
        firsts = entries if is_first.all() else entries.take(np.flatnonzero(is_first))
        codes, rows = np.unique(entries.labels.codes[is_first], return_index=True)
        order = np.argsort(rows)
        labels = entries.labels.names[codes[order]].tolist()
        places = (self._cells.place(numbers[i]) for i in np.flatnonzero(is_first)[rows[order]].tolist())
        if self._form.task != "regression":
            of_names = dict[str, str]()
            for label, place in zip(labels, places, strict=True):
                for one in names_in(label, self._form.task):
                    of_names.setdefault(one, place)
            errors += self._label_errors(of_names)
        if errors:
            lines = join_truncated(errors, "\n  ", shown=MAX_ERRORS)
            advice = f"\n{ADVICE if self._form.task == 'classification' else SEPARATOR_ADVICE}"
            advice = advice if self._may_be_several else ""
            raise DataError(f"{self._name} has {pluralize(len(errors), 'error')}:\n  {lines}{advice}")
        if not len(firsts):
            raise DataError(f"{self._name} has no rows. Expected one for each image: path,label[,split][,group].")
        return firsts

    def _entry(self, row: list[str]) -> ImageEntry:
        columns, file = self._columns, row[self._columns.image]
        named = (columns.split, columns.group, columns.pooled_group)
        raw, group, pooled = ("" if i is None else row[i].strip() for i in named)
        if not file.strip():
            raise ValueError("no path")
        label = self._label(row) if columns.labels else ""
        if not label and columns.labels and self._form.task != "multilabel":
            kind = SeveralLabelsError if self._form.task == "classification" else ValueError
            raise kind(f"no label for {redact(file)}")
        if ("\n" in file and not self._exists(file)) or ("\n" in label and label not in file):
            raise ValueError(f"a line break in {f'{file},{label}'[:80]!r}; is a quote missing?")
        if raw and raw.lower() not in PART_NAMES:
            raise ValueError(f"split {raw!r}; expected train, val or test")
        return ImageEntry(self._finder.find(file), label, PART_NAMES.get(raw.lower()), group or None, pooled or None)

    def _label(self, row: list[str]) -> str:
        labels = self._columns.labels
        if len(labels) == 1:
            return self._form.read(row[labels[0]])
        names, values = [self._cells.columns[i].strip() for i in labels], [row[i].strip() for i in labels]
        return self._form.read_flags(names, values)

    def _contradiction(self, entry: ImageEntry, other: ImageEntry, place: str) -> str:
        """What a second row for an image says that the first one at `place` does not."""
        path = redact(entry.path)
        if entry.label != other.label:
            self._may_be_several = True
            return f"{path} is {entry.label!r}, but {other.label!r} in {place}; expected one label"
        return f"{path} again, with another split or group than in {place}" if entry != other else ""

    def _label_errors(self, places: Mapping[str, str]) -> Iterator[str]:
        """Find labels that differ in quotes or are one number, and cells with several; `places` are the first."""
        numbers = dict[str, str]()
        for label, place in places.items():
            other = numbers.setdefault(re.sub(r"^([-+]?\d+)\.0+$", r"\1", label), label)
            bare = label.strip(_QUOTES)
            other = bare if bare != label and bare in places else other
            if other != label:
                before = f"{other!r} in {places[other]}"
                yield f"{place}: label {label!r}, and {before}; expected one spelling"
            splits = [re.split(mark, label) for mark in self._form.marks]
            several = [[one.strip() for one in parts] for parts in splits if len(parts) > 1]
            is_one = self._form.task == "classification"
            is_list = is_one and bool(re.fullmatch(r"\[['\"\d].*\]", label))
            if is_list or any(all(one in places for one in parts) for parts in several):
                self._may_be_several = True
                expected = "one class for an image" if is_one else "one separator"
                yield f"{place}: several labels: {label}; expected {expected}"


def class_of(label: str, classes: Sequence[str], where: str) -> str:
    """The class name of a label, which is a number if `classes` has names."""
    if not classes or not label.lstrip("-").isdecimal():
        return label
    if not 0 <= int(label) < len(classes):
        raise DataError(f"{where} has the label {label}, but there are names for 0 to {len(classes) - 1} only.")
    return classes[int(label)]
