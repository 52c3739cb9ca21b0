"""Read a manifest: a CSV or Parquet table `path,label[,split][,group]` with a row for each image.

Paths are absolute or relative to the file's folder. All errors of a file are reported at once.
"""

from __future__ import annotations

import ast
import json
import re
import unicodedata
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from regraft.data.entries import EntryTable, ImageEntry
from regraft.data.labels import SEPARATOR, AskedTask, Task, join_labels
from regraft.data.samples import Part
from regraft.data.sources.columns import FLAGS, ColumnFinder, Columns
from regraft.data.sources.table import MAX_ERRORS, Cells, read_cells
from regraft.data.sources.urls import is_url, redact
from regraft.data.storage import Directory, Folder, Listing, Storage, is_image
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
    """The rows of a manifest, and sentences on what was recognized."""

    rows: EntryTable
    notes: list[str]
    task: Task = "classification"
    quantity: str = "value"


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
    task: AskedTask = "auto",
    label_separator: str = "",
) -> Manifest:
    """Read a manifest whose relative paths are names in `storage`; `name` is for messages.

    `image_column` and `label_column` name columns that their names and contents do not reveal; several names with
    commas between them are those of columns with 0 and 1. Files that are not where a path leads are searched for by
    the end of the path, with or without extension. Without `labeled`, labels, parts and groups do not count, and the
    label of every image is empty. Of the `task` `multilabel`, cells have any number of labels with `label_separator`
    between them (default: `|`), or as a JSON list, and any number of columns have a 1. Of the task `regression`, labels
    are any texts, for `with_numbers`, and the quantity is the name of their column. Raises `DataError` as `check_rows`
    does, and if it is unclear which column or which file is meant.
    """
    cells = read_cells(name, data)
    # A web server does not know which files it has, and says yes to all.
    exists = (lambda _: False) if storage.exists("no such file") else storage.exists
    finder = ColumnFinder(name, cells, PART_NAMES, exists)
    is_multilabel, has_numbers = (labeled and task == asked for asked in ("multilabel", "regression"))
    if labeled:
        columns = finder.find(image_column, label_column, numbers=has_numbers)
    else:
        columns = finder.find_images(image_column)
    separator = label_separator or SEPARATOR
    table = _Rows(
        name, cells, columns, storage.exists, storage.top, separator if is_multilabel else "", numbers=has_numbers
    )
    found: Task = "multilabel" if is_multilabel else "classification"
    quantity = cells.columns[columns.labels[0]].strip() if has_numbers else "value"
    return Manifest(table.read(), [*cells.notes, *columns.notes, *table.notes], found, quantity)


def check_rows(name: str, cells: Cells, exists: Callable[[str], bool], columns: Columns | None = None) -> EntryTable:
    """Validate rows with the given columns, or `path`, `label`, and optionally `split` (or `part`) and `group`.

    Other columns and spaces around cells are ignored. `exists` knows the files; a path may also be a URL. Raises
    `DataError` if a column is missing, a label or path is empty, a split has an unknown name, an image has two labels,
    a cell has several labels, or a group is in several parts.
    """
    columns = columns or ColumnFinder(name, cells, PART_NAMES).find("path", "label")
    return _Rows(name, cells, columns, exists, Listing()).read()


class _Rows:
    """The rows of a table, read and validated; `top` lists the files that are searched for.

    An image has any number of labels if there is a `separator` of those in a cell. Labels that are `numbers` may be
    written in several ways.
    """

    def __init__(
        self,
        name: str,
        cells: Cells,
        columns: Columns,
        exists: Callable[[str], bool],
        top: Directory,
        separator: str = "",
        *,
        numbers: bool = False,
    ) -> None:
        self._separator, self._numbers = separator, numbers
        self._name, self._cells, self._columns, self._exists, self._top = name, cells, columns, exists, top
        self._errors = list[tuple[int, str]]()
        self._moved = dict[str, str]()
        self._repeated = 0

    @property
    def notes(self) -> list[str]:
        """Sentences on files that were found elsewhere and on repeated rows."""
        notes = []
        if self._moved:
            path, file = next(iter(self._moved.items()))
            count = pluralize(len(self._moved), "image")
            notes.append(f"{self._name}: {count} found by the ends of the paths, for example {path} as {file}.")
        if self._repeated:
            notes.append(f"{self._name}: {pluralize(self._repeated, 'row')} repeated and ignored.")
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
                continue
            entries.append(entry)
            numbers.append(number)
        first_rows = entries.first_rows()
        is_first = first_rows == np.arange(len(entries))
        for i in np.flatnonzero(~is_first).tolist():
            first = int(first_rows[i])
            if problem := _contradiction(entries[i], entries[first], self._cells.place(numbers[first])):
                self._errors.append((numbers[i], problem))
            else:
                self._repeated += 1
        errors = [f"{self._cells.place(number)}: {error}" for number, error in sorted(self._errors)]
        firsts = entries if is_first.all() else entries.take(np.flatnonzero(is_first))
        codes, rows = np.unique(entries.labels.codes[is_first], return_index=True)
        order = np.argsort(rows)
        labels = entries.labels.names[codes[order]].tolist()
        places = (self._cells.place(numbers[i]) for i in np.flatnonzero(is_first)[rows[order]].tolist())
        if not self._separator and not self._numbers:
            errors += self._label_errors(dict(zip(labels, places, strict=True)))
        if errors:
            lines = join_truncated(errors, "\n  ", shown=MAX_ERRORS)
            raise DataError(f"{self._name} has {pluralize(len(errors), 'error')}:\n  {lines}")
        if not len(firsts):
            raise DataError(f"{self._name} has no rows. Expected one for each image: path,label[,split][,group].")
        return firsts

    def _entry(self, row: list[str]) -> ImageEntry:
        columns, file = self._columns, row[self._columns.image]
        raw, group = ("" if i is None else row[i].strip() for i in (columns.split, columns.group))
        if not file.strip():
            raise ValueError("no path")
        label = self._label(row) if columns.labels else ""
        if not label and columns.labels and not self._separator:
            raise ValueError(f"no label for {redact(file)}")
        if ("\n" in file and not self._exists(file)) or ("\n" in label and label not in file):
            raise ValueError(f"a line break in {f'{file},{label}'[:80]!r}; is a quote missing?")
        if raw and raw.lower() not in PART_NAMES:
            raise ValueError(f"split {raw!r}; expected train, val or test")
        return ImageEntry(self._locate(file), label, PART_NAMES.get(raw.lower()), group or None)

    def _label(self, row: list[str]) -> str:
        labels = self._columns.labels
        if len(labels) == 1 and not self._separator:
            return row[labels[0]].strip()
        if len(labels) == 1:
            return join_labels(read_labels(row[labels[0]], self._separator))
        chosen = []
        for i in labels:
            name, value = self._cells.columns[i].strip(), row[i].strip()
            if (flag := FLAGS.get(value.lower())) is None:
                raise ValueError(f"{value!r} in the column {name}; expected 0 or 1")
            if flag:
                chosen.append(name)
        if self._separator:
            return join_labels(chosen)
        if len(chosen) != 1:
            found = f"{len(chosen)} labels: {join_truncated(chosen)}" if chosen else "no label: no class has a 1"
            raise ValueError(f"{found}; expected one class for an image")
        return chosen[0]

    def _locate(self, file: str) -> str:
        """The file as written, without spaces around it, with slashes, in another Unicode form, or by its end."""
        stripped = file.strip()
        if is_url(stripped):
            return stripped
        slashes = stripped.replace("\\", "/")
        forms = (unicodedata.normalize(form, slashes) for form in ("NFC", "NFD"))  # macOS decomposes accents
        for written in dict.fromkeys((file, stripped, slashes, *forms)):
            if self._exists(name := Path(written).as_posix()):
                return name
        *folders, last = [part for part in slashes.split("/") if part not in ("", ".")] or [slashes]
        is_absolute = slashes.startswith("/") or bool(re.match("[A-Za-z]:", slashes))
        found = []
        for candidate in self._by_name.get(last, ()):
            ours = candidate.split("/")[:-1]
            common = min(len(ours), len(folders))
            # Of a path from another machine only the end is here; of a relative one also a folder must be.
            if ours[len(ours) - common :] == folders[len(folders) - common :] and (
                common == len(folders) or common or is_absolute
            ):
                found.append(candidate)
        if len(found) > 1:
            raise ValueError(f"{redact(file)} may be {join_truncated(found, ' or ', shown=3)}; expected one file")
        if found:
            self._moved[file] = found[0]
        return found[0] if found else Path(file).as_posix()

    @cached_property
    def _by_name(self) -> dict[str, list[str]]:
        """Images by their names, and by their names without extension."""
        found = defaultdict[str, list[str]](list)
        for file in self._top.files_below:
            if is_image(file):
                name = file.rpartition("/")[2]
                found[name].append(file)
                found[name.rpartition(".")[0]].append(file)
        return found

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
            marks = (r"\|", ";", ",", r"\s+")
            several = [[one.strip() for one in parts] for mark in marks if len(parts := re.split(mark, label)) > 1]
            if any(all(one in places for one in parts) for parts in several) or re.fullmatch(r"\[['\"\d].*\]", label):
                yield f"{place}: several labels: {label}; expected one class for an image"


def read_labels(cell: str, separator: str) -> list[str]:
    """The labels in a cell: a JSON list, or texts with a separator between them; none in an empty cell.

    Raises `ValueError` if a list is damaged or has something else than texts.
    """
    cell = cell.strip()
    if not cell.startswith("["):
        return [label.strip() for label in cell.split(separator) if label.strip()]
    try:
        labels = json.loads(cell)
    except json.JSONDecodeError:
        try:
            labels = ast.literal_eval(cell)  # as pandas writes a list
        except (ValueError, SyntaxError) as error:
            raise ValueError(f'labels {cell[:80]!r}; expected a list such as ["cat", "dog"]') from error
    if not isinstance(labels, list) or not all(isinstance(label, (str, int)) for label in labels):
        raise ValueError(f"labels {cell[:80]!r}; expected a list of names")
    return [str(label).strip() for label in labels]


def _contradiction(entry: ImageEntry, other: ImageEntry, place: str) -> str:
    """What a second row for an image says that the first one at `place` does not."""
    path = redact(entry.path)
    if entry.label != other.label:
        return f"{path} is {entry.label!r}, but {other.label!r} in {place}; expected one label"
    return f"{path} again, with another split or group than in {place}" if entry != other else ""


def class_of(label: str, classes: Sequence[str], where: str) -> str:
    """The class name of a label, which is a number if `classes` has names."""
    if not classes or not label.lstrip("-").isdecimal():
        return label
    if not 0 <= int(label) < len(classes):
        raise DataError(f"{where} has the label {label}, but there are names for 0 to {len(classes) - 1} only.")
    return classes[int(label)]
