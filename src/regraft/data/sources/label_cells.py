"""Decide how the labels of images are written in tables, and whether an image has several; then read them.

Input: the cells of all tables of a data set. Output: a `LabelForm`, which reads one cell, or columns with 0 and 1. What
is not clearly several labels is one label, and `--task` decides otherwise.
"""

from __future__ import annotations

import ast
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from regraft.data.labels import SEPARATOR, SEPARATORS, LabelOptions, Task, join_labels
from regraft.data.sources.columns import FLAGS, Columns
from regraft.data.sources.table import Cells, text_of
from regraft.text import join_truncated

#: Fewest images, and share of them, that are not of one class where images have several: fewer may be mistakes.
_LEAST, _SHARE = 2, 0.05
#: Share of the labels between separators that are labels by themselves, too, or in several places of a cell.
_FREE = 0.6
#: Where Label Studio has the labels of a choice or a shape.
STUDIO_KEYS = (
    "choices", "rectanglelabels", "polygonlabels", "brushlabels", "ellipselabels", "keypointlabels",
    "vectorlabels", "bitmasklabels", "labels",
)  # fmt: skip
#: What to do where one label was expected and there are several.
ADVICE = "If an image may have several labels, or none, use --task multilabel (task= in Python)."
#: The same where images have several labels, and one looks like others with another mark between them.
SEPARATOR_ADVICE = (
    "--label-separator (label_separator= in Python) says what is between labels; names may have all else."
)
#: Patterns of what may be between several labels that are read as one; all where nobody has said that they are one.
_MARKS = (r"\|", ";", ",")
_ALL_MARKS = (*_MARKS, r"\s+", "[/+&]")


class SeveralLabelsError(ValueError):
    """An image has several labels, or none, where one was expected."""


@dataclass(frozen=True)
class LabelForm:
    """How labels are written: in a cell one, several with a `separator` between them, or a list; or in flags.

    `unites` says that the labels of an image are those of all rows that name it, and `notes` are sentences. `marks` are
    patterns: a label that one of them divides into other labels is hardly one.
    """

    task: Task = "classification"
    separator: str = ""
    has_lists: bool = False
    unites: bool = False
    notes: tuple[str, ...] = ()
    marks: tuple[str, ...] = _ALL_MARKS

    def read(self, cell: str) -> str:
        """The label that a cell says, for a data set of this task. Raises `ValueError`."""
        if self.task == "multilabel":
            return join_labels(read_labels(cell, self.separator))
        labels = labels_in_list(cell.strip()) if self.has_lists else None
        return cell.strip() if labels is None else _only(labels)

    def read_flags(self, names: Sequence[str], values: Sequence[str]) -> str:
        """The label that columns for the classes say, with their names. Raises `ValueError`."""
        chosen = []
        for name, value in zip(names, values, strict=True):
            if (flag := FLAGS.get(value.lower())) is None:
                raise ValueError(f"{value!r} in the column {name}; expected 0 or 1")
            if flag:
                chosen.append(name)
        return join_labels(chosen) if self.task == "multilabel" else _only(chosen, "no label: no class has a 1")


#: A label in each cell.
ONE_LABEL = LabelForm()


def form_of_tables(tables: Iterable[tuple[Cells, Columns]], name: str, asked: LabelOptions) -> LabelForm:
    """How labels are written in the tables of a data set, which is called `name` in notes."""
    if asked.task == "regression":
        return LabelForm("regression")
    texts, flags = Counter[str](), Counter[int]()
    for cells, columns in tables:
        for row in cells.rows:
            if row and len(columns.labels) == 1:
                texts[row[columns.labels[0]].strip()] += 1
            elif row and columns.labels:
                flags[sum(FLAGS.get(row[i].strip().lower(), False) for i in columns.labels)] += 1
    forms = [form_of_texts(texts, name, asked)] if texts else []
    forms += [_form_of_flags(flags, name, asked)] if flags else []
    several = [form for form in forms if form.task == "multilabel"]
    return (several or forms or [ONE_LABEL])[0]


def form_of_texts(counts: Mapping[str, int], name: str, asked: LabelOptions) -> LabelForm:
    """How labels are written in these texts, each with its number of images."""
    if asked.task == "regression":
        return LabelForm("regression")
    filled = [text for text in counts if text]
    lists = {text: labels for text in filled if (labels := labels_in_list(text)) is not None}
    total, are_lists = sum(counts.values()), bool(lists) and len(lists) == len(filled)
    if asked.task == "multilabel" or asked.separator:
        return _form_asked(filled, lists, name, asked)
    if asked.task == "auto" and lists:
        several = sum(counts[text] for text, labels in lists.items() if len(labels) > 1)
        if _is_usual(several, several, total) or (are_lists and several):
            said = _said(name, several, total, "in a list")
            return LabelForm("multilabel", SEPARATOR, notes=(said,), marks=() if are_lists else _ALL_MARKS)
    if asked.task == "auto" and not are_lists:
        for separator in SEPARATORS:
            parts = {text: _parts(text, separator) for text in filled}
            several = sum(counts[text] for text, labels in parts.items() if len(labels) > 1)
            if _is_usual(several, several, total) and (separator == SEPARATOR or _are_free(parts, counts)):
                how = f"with {separator!r} between them"
                return LabelForm("multilabel", separator, notes=(_said(name, several, total, how),))
    with_marks = [text for text in filled if any(len(_parts(text, mark)) > 1 for mark in SEPARATORS)]
    notes = []
    if with_marks and not are_lists and asked.task == "auto":
        notes.append(
            f"{name}: {with_marks[0]!r} is one label, since its pieces are hardly labels by themselves. If it is "
            "several, use --task multilabel."
        )
    marks = _MARKS if asked.task == "classification" else _ALL_MARKS
    return LabelForm(has_lists=are_lists, notes=tuple(notes), marks=marks)


def read_labels(cell: str, separator: str) -> list[str]:
    """The labels in a cell: a list, or texts with a separator between them; none in an empty cell.

    Raises `ValueError` if a list is damaged or has something else than names.
    """
    cell = cell.strip()
    if (labels := labels_in_list(cell)) is not None:
        return labels
    if cell.startswith("["):
        raise ValueError(f'labels {cell[:80]!r}; expected a list of names such as ["cat", "dog"]')
    return _parts(cell, separator or SEPARATOR)


def labels_in_list(text: str) -> list[str] | None:
    """The labels in a list, as JSON or as Python writes it, or as Label Studio has them; None for another text."""
    if not text.startswith(("[", "{")) or not text.endswith(("]", "}")):
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        if re.search(r"""['"]\s+['"]""", text):  # NumPy writes no commas, and Python would join the names
            return None
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            return None
    return labels_in(value)


def labels_in(value: Any) -> list[str] | None:
    """The labels in a list of names or numbers, or in values of Label Studio; None if it is something else."""
    if isinstance(value, dict):
        found = [labels_in(value[key]) for key in STUDIO_KEYS if key in value]
        return found[0] if found else None
    if not isinstance(value, (list, tuple)):
        return None
    labels = list[str]()
    for item in value:
        if isinstance(item, (str, int)) and not isinstance(item, bool):
            labels += [name] if (name := text_of(item).strip()) else []
        elif isinstance(item, dict) and (inner := labels_in(item)) is not None:
            labels += inner
        else:
            return None
    return list(dict.fromkeys(labels))


def _form_asked(filled: Sequence[str], lists: Mapping[str, list[str]], name: str, asked: LabelOptions) -> LabelForm:
    """The form where the user says that images have several labels; the separator is that of the most cells."""
    plain = [text for text in filled if text not in lists]
    used = [mark for mark in SEPARATORS if any(len(_parts(text, mark)) > 1 for text in plain)]
    usual = max(used, key=lambda mark: sum(len(_parts(text, mark)) > 1 for text in plain), default=SEPARATOR)
    separator, notes = asked.separator or usual, list[str]()
    if used and not asked.separator:
        example = next(text for text in plain if len(_parts(text, separator)) > 1)
        notes.append(
            f"{name}: labels with {separator!r} between them, such as {example!r}; --label-separator names another."
        )
    elif not any(len(read) > 1 for read in lists.values()) and not any(separator in text for text in plain):
        notes.append(f"{name}: no image has more than one label.")
    marks = () if asked.separator or not plain else _ALL_MARKS
    return LabelForm("multilabel", separator, unites=asked.task == "multilabel", notes=tuple(notes), marks=marks)


def _form_of_flags(counts: Counter[int], name: str, asked: LabelOptions) -> LabelForm:
    """How many columns for classes have a 1 in how many rows decides whether an image has several."""
    total, none = counts.total(), counts[0]
    several = total - none - counts[1]
    if asked.task == "multilabel" or asked.separator:
        return LabelForm("multilabel", unites=asked.task == "multilabel", marks=())
    if asked.task == "auto" and _is_usual(several, several + none, total):
        return LabelForm("multilabel", notes=(_said(name, several, total, f"and {none:,} none"),), marks=())
    return LabelForm(marks=())


def _said(name: str, several: int, total: int, how: str) -> str:
    return (
        f"{name}: several labels an image: {several:,} of {total:,} have more than one, {how}. --task classification "
        "refuses them."
    )


def _is_usual(several: int, irregular: int, total: int) -> bool:
    """Whether so many images have several labels, and so many not exactly one, that it is no mistake."""
    return several >= _LEAST and irregular >= _SHARE * total


def _are_free(parts: Mapping[str, list[str]], counts: Mapping[str, int]) -> bool:
    """Whether most pieces of cells are alone in others, or at several places, unlike those of `Paris, France`."""
    places: dict[str, set[int]] = {}
    for labels in parts.values():
        for place, label in enumerate(labels):
            places.setdefault(label, set()).add(-1 if len(labels) == 1 else min(place, 1))
    pieces = [(label, counts[text]) for text, labels in parts.items() if len(labels) > 1 for label in labels]
    free = sum(count for label, count in pieces if len(places[label]) > 1)
    return free >= _FREE * sum(count for _, count in pieces)


def _parts(text: str, separator: str) -> list[str]:
    return [part.strip() for part in text.split(separator) if part.strip()]


def _only(labels: Sequence[str], none: str = "no label: an empty list") -> str:
    if len(labels) != 1:
        found = f"{len(labels)} labels: {join_truncated(labels)}" if labels else none
        raise SeveralLabelsError(f"{found}; expected one class for an image")
    return labels[0]
