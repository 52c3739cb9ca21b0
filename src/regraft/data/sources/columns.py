"""Find the columns of a table of images by their names, and by their contents where the names leave it open."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from regraft.data.sources.table import Cells
from regraft.data.storage import is_image
from regraft.errors import DataError
from regraft.text import join_truncated

_IMAGE_NAMES = frozenset(
    [
        "path",
        "paths",
        "file",
        "files",
        "file_name",
        "file_names",
        "filename",
        "filenames",
        "filepath",
        "filepaths",
        "file_path",
        "file_paths",
        "image",
        "images",
        "image_name",
        "image_path",
        "image_file",
        "image_filename",
        "image_id",
        "image_index",
        "img",
        "img_name",
        "img_path",
        "img_id",
        "picture",
        "photo",
        "id",
        "uuid",
    ]
)
#: Words in the names of columns with labels.
_LABEL_WORDS = frozenset(
    [
        "label",
        "labels",
        "class",
        "classes",
        "category",
        "categories",
        "breed",
        "breeds",
        "species",
        "target",
        "targets",
        "diagnosis",
        "choice",
        "choices",
        "tag",
        "tags",
    ]
)
#: Columns that describe images and are never labels, unless `label_column` names them.
_OTHERS = frozenset(
    [
        "width",
        "height",
        "xmin",
        "ymin",
        "xmax",
        "ymax",
        "index",
        "sha256",
        "md5",
        "hash",
        "url",
        "license",
        "comment",
        "comments",
        "note",
        "notes",
        "size",
        "bytes",
    ]
)
#: Cells of a column for a class: whether the image is of the class.
FLAGS = {"0": False, "1": True, "0.0": False, "1.0": True, "false": False, "true": True}
#: Names of the columns in our own tables and those of `datasets`, of which nothing need be said.
_DEFAULT_IMAGES = ("path", "file_name")
#: Words in the names of columns that may say which images are the test's.
_SPLIT_WORDS = frozenset(["set", "subset", "dataset", "partition", "phase", "usage", "train", "test", "fold"])
_SPLIT_NAMES, _GROUP = ("split", "part"), "group"
#: Rows whose cells decide about a column, and rows from which on a label may not be different in each.
_SAMPLE, _FEW = 200, 12
#: Share of the cells that are 0 or 1 in columns for classes, and numbers in a column of numbers; others are errors.
_FLAGS_SHARE, _NUMBERS_SHARE = 0.8, 0.8
#: Columns of which an error shows a cell.
_EXAMPLES = 3
#: The column of a table's row numbers, which are no numbers of images.
_ROW_NUMBER = "index"


@dataclass(frozen=True)
class GroupColumns:
    """What a table says of groups.

    `names` are those of all its columns; () where there is no table. `is_asked`: the groups are those of the column
    that was asked for, and `is_pooled`: so are those that get one answer each. `divided` is a group of the column
    `group` that the column of the groups divides, if there is one.
    """

    names: tuple[str, ...] = ()
    is_asked: bool = False
    is_pooled: bool = False
    divided: str = ""


#: What data without a table says.
NO_TABLE = GroupColumns()


@dataclass(frozen=True)
class Columns:
    """Numbers of the columns of a table; several `labels` have a 1 for the class and 0 for the others."""

    image: int
    labels: list[int]
    split: int | None
    group: int | None
    notes: list[str]
    of_groups: GroupColumns = NO_TABLE
    pooled_group: int | None = None


def _is_number(cell: str) -> bool:
    try:
        return math.isfinite(float(cell))
    except ValueError:
        return False


def _ways_to_name(option: str) -> str:
    """The option that names a column, in a terminal and in Python; not every command has one of its own."""
    flag = f"--{option.replace('_', '-')}"
    return f"{flag} ({option}= in Python, --set data.{option}= where a command has no {flag})"


class ColumnFinder:
    """Finds the columns of a table; `part_names` are the values of a split, and `exists` knows the files.

    Raises `DataError` if a column is missing, or several columns may be the one.
    """

    def __init__(
        self, name: str, cells: Cells, part_names: Collection[str], exists: Callable[[str], bool] = lambda _: False
    ) -> None:
        self._name, self._cells, self._part_names, self._exists = name, cells, part_names, exists
        # "Image Index", "image-index" and "imageIndex" are one name.
        split = (re.sub(r"(?<=[a-z])(?=[A-Z])|[\s_-]+", "_", column.strip()) for column in cells.columns)
        self._names = [name.lower() for name in split]
        self._known = [name.strip() for name in cells.columns]

    def find_images(self, image_column: str = "", group_by: str = "") -> Columns:
        """Find the column of the images, unless it is given, and that of groups that are asked for, and no others."""
        image = self._given("image_column", image_column) if image_column else self._image()
        group = self._asked_group(group_by)
        return Columns(image, [], None, group, [], GroupColumns(tuple(self._known), group is not None))

    def find(
        self, image_column: str = "", label_column: str = "", *, numbers: bool = False, group_by: str = "",
        pool_by: str = "",
    ) -> Columns:  # fmt: skip
        """Find all columns; those that are given need not be found. If the labels are `numbers`, all may differ.

        `group_by` is that of the groups, if a column has this name, and else it is a pattern, which means nothing here;
        so is `pool_by` for those that get one answer each.
        """
        image = self._given("image_column", image_column) if image_column else self._image()
        split = next((self._only(name) for name in _SPLIT_NAMES if name in self._names), None)
        asked, pooled = self._asked_group(group_by), self._asked_group(pool_by, "pool_by")
        group = asked if asked is not None else self._only(_GROUP) if _GROUP in self._names else None
        taken = {image, split, group, pooled, *(i for i, name in enumerate(self._names) if name in _SPLIT_NAMES)}
        if label_column:
            names = [label_column] if label_column.strip() in self._known or numbers else label_column.split(",")
            labels = [self._given("label_column", name) for name in names]
        elif numbers:
            labels = [self._number_column(taken)]
        else:
            labels = self._labels(taken)
        if len({self._known[i] for i in labels}) < len(labels):
            raise DataError(f"{self._name} has labels in several columns of one name: {self._join(labels)}. Keep one.")
        notes = list[str]()
        if split is None:
            split = self._split_by_content({*taken, *labels})
            if split is not None:
                notes.append(f"{self._name}: parts from the column {self._known[split]!r}.")
            elif unread := [i for i in range(len(self._names)) if i not in {*taken, *labels} and self._is_split(i)]:
                values = f"the values of {self._join(unread)} are not train, val and test"
                notes.append(f"{self._name}: the data has no parts; {values}.")
        found = [f"images from the column {self._known[image]!r}"] if self._names[image] not in _DEFAULT_IMAGES else []
        if len(labels) > 1:
            found.append(f"labels from the columns {self._join(labels)}, which have 0 and 1")
        elif self._names[labels[0]] != "label":
            found.append(f"labels from the column {self._known[labels[0]]!r}")
        if found:
            notes.insert(0, f"{self._name}: {' and '.join(found)}.")
        of_groups = GroupColumns(tuple(self._known), asked is not None, pooled is not None, self._divided(asked))
        return Columns(image, labels, split, group, notes, of_groups, pooled)

    def label(self) -> int:
        """Find the column with the labels of a table without a column of images."""
        taken = {i for i, name in enumerate(self._names) if name in (*_SPLIT_NAMES, _GROUP)}
        labels = self._labels(set(taken))
        if len(labels) > 1:
            raise self._unclear("the labels", labels, "label_column", "label")
        return labels[0]

    def _asked_group(self, group_by: str, option: str = "group_by") -> int | None:
        """The column with the groups that are asked for; None if no column has this name."""
        is_name = group_by.strip().lower() in (name.lower() for name in self._known if name)
        return self._given(option, group_by) if is_name else None

    def _divided(self, asked: int | None) -> str:
        """A group of the column `group` whose rows differ in the column that is asked for; "" if there is none."""
        cells: dict[str, str] = {}
        if asked is not None and _GROUP in self._names and (other := self._names.index(_GROUP)) != asked:
            for row in filter(None, self._cells.rows):
                group, cell = row[other].strip(), row[asked].strip()
                if group and cells.setdefault(group, cell) != cell:
                    return group
        return ""

    def _image(self) -> int:
        if "path" in self._names:
            return self._only("path")
        if [cell for cell in self._cells.columns if is_image(cell) or self._exists(cell.strip())]:
            raise DataError(
                f"{self._name} begins with {','.join(self._cells.columns)!r}, a row and not a header. Add a first line "
                "with the names of the columns: path,label"
            )
        named = [i for i, name in enumerate(self._names) if name in _IMAGE_NAMES]
        candidates = named or list(range(len(self._names)))
        likely = [i for i in candidates if self._holds(i, is_image)]
        if not likely and len(named) == 1:
            return named[0]
        likely = likely or [i for i in named if self._holds(i, self._exists)]
        if len(likely) > 1:
            likely = [i for i in likely if self._holds(i, self._exists)] or likely
        if len(likely) == 1:
            return likely[0]
        raise self._unclear("the paths of the images", likely or named, "image_column", "path")

    def _labels(self, taken: set[int | None]) -> list[int]:
        if "label" in self._names:
            return [self._only("label")]
        left = [i for i, name in enumerate(self._names) if i not in taken and name and not name.startswith("unnamed:")]
        named = [i for i in left if _LABEL_WORDS & set(self._names[i].split("_"))]
        found = named or [i for i in left if self._names[i] not in (_OTHERS | _IMAGE_NAMES)]
        if len(found) > 1 and self._are_flags(found):
            return found
        if len(named) > 1 and all(self._same_classes(named[0], i) for i in named[1:]):
            found = sorted(named, key=lambda i: self._holds(i, str.isdecimal))[:1]  # names before numbers
        values = self._cells.column(found[0]) if len(found) == 1 else []
        if values and (named or len(values) < _FEW or len(set(values)) < len(values)):
            return found
        more = ""
        if len(found) > 1:
            more = " Columns that are labels together have 0 and 1 in each row, and are named with commas: cat,dog."
        elif found and self._has_numbers(found[0]):
            more = " If it is a number to predict, use --task regression (task= in Python)."
        raise self._unclear("the labels", found, "label_column", "label", more)

    def _number_column(self, taken: set[int | None]) -> int:
        """The column with the numbers that are the labels: `label`, or the only one with numbers.

        One that is named like what describes images, such as `size`, is it if no other column has numbers. A column has
        numbers if nearly all of its cells are: the others are errors of their rows.
        """
        if "label" in self._names:
            return self._only("label")
        left = [i for i, name in enumerate(self._names) if i not in taken and name and not name.startswith("unnamed:")]
        numeric = [
            i for i in left
            if self._names[i] not in _IMAGE_NAMES | {_ROW_NUMBER} and self._has_numbers(i)
        ]  # fmt: skip
        others = [i for i in numeric if self._names[i] not in _OTHERS]
        named = [i for i in others if _LABEL_WORDS & set(self._names[i].split("_"))]
        found = named or others or numeric
        if len(found) == 1:
            return found[0]
        unread = [i for i in left if self._names[i] not in _IMAGE_NAMES | _OTHERS and self._first_cells(i)]
        if not found and unread:
            examples = ", ".join(f"{self._known[i]} has {self._no_number(i)!r}" for i in unread[:_EXAMPLES])
            what = f"the numbers: {examples}; expected cells such as 1234 or 12.5, without units and commas"
            raise self._unclear(what, found, "label_column", "label")
        raise self._unclear("the numbers", found, "label_column", "label")

    def _no_number(self, column: int) -> str:
        """The first cell of a column that is no number."""
        return next(cell for cell in self._first_cells(column) if not _is_number(cell))

    def _split_by_content(self, taken: set[int | None]) -> int | None:
        """The column in which each cell is the name of a part."""
        found = []
        for i in range(len(self._names)):
            values = {value.lower() for value in self._cells.column(i)} if i not in taken else set()
            if len(values) > 1 and values <= set(self._part_names):
                found.append(i)
        if len(found) > 1:
            raise DataError(f"{self._name} has several columns with parts: {self._join(found)}. Rename one to `split`.")
        return found[0] if found else None

    def _is_split(self, column: int) -> bool:
        words = set(self._names[column].split("_"))
        return bool(words & _SPLIT_WORDS) and 1 < len(set(self._cells.column(column))) <= _FEW

    def _only(self, name: str) -> int:
        if self._names.count(name) > 1:
            raise DataError(f"{self._name} has several columns named {name}. Keep one of them.")
        return self._names.index(name)

    def _given(self, option: str, column: str) -> int:
        matches = [i for i, name in enumerate(self._known) if name == column.strip()]
        matches = matches or [i for i, name in enumerate(self._known) if name.lower() == column.strip().lower()]
        if len(matches) != 1:
            raise DataError(
                f"{self._name} has {'several columns' if matches else 'no column'} {column!r}. "
                f"{option} is one of: {join_truncated(self._known)}."
            )
        return matches[0]

    def _holds(self, column: int, test: Callable[[str], bool]) -> bool:
        """Whether a test holds for the first cells of a column, and there is a cell."""
        cells = self._first_cells(column)
        return bool(cells) and all(map(test, cells))

    def _has_numbers(self, column: int) -> bool:
        """Whether nearly all of the first cells of a column are numbers."""
        cells = self._first_cells(column)
        return sum(map(_is_number, cells)) >= _NUMBERS_SHARE * len(cells) > 0

    def _first_cells(self, column: int) -> list[str]:
        cells = [row[column].strip() for row in self._cells.rows[:_SAMPLE] if row]
        return [cell for cell in cells if cell]

    def _are_flags(self, columns: Sequence[int]) -> bool:
        """Whether columns have 0 and 1, with few exceptions, which are errors."""
        cells = [row[i].strip() for row in self._cells.rows[:_SAMPLE] if row for i in columns]
        return sum(cell.lower() in FLAGS for cell in cells) >= _FLAGS_SHARE * len(cells) > 0

    def _same_classes(self, first: int, second: int) -> bool:
        """Whether two columns divide the rows into the same classes."""
        pairs = {(row[first].strip(), row[second].strip()) for row in self._cells.rows if row}
        return len(pairs) == len({one for one, _ in pairs}) == len({other for _, other in pairs})

    def _join(self, columns: Sequence[int]) -> str:
        return join_truncated([self._known[i] for i in columns])

    def _unclear(self, what: str, columns: Sequence[int], option: str, default: str, more: str = "") -> DataError:
        advice = f"Name one by {_ways_to_name(option)}, or rename it to `{default}`.{more}"
        if len(columns) == 1:
            column = self._join(columns)
            return DataError(f"{self._name}: {column!r} would be {what}, but has another value in each row. {advice}")
        if columns:
            return DataError(f"{self._name} has several columns that may be {what}: {self._join(columns)}. {advice}")
        listed = join_truncated(self._known) or "(none)"
        return DataError(f"{self._name} has the columns {listed}, and none that is known to be {what}. {advice}")
