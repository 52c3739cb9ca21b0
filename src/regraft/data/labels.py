"""What images are labeled with: one class, any number of classes, or a number; and several labels as one text.

A data set stores the label of an image as text. Of a multi-label data set it is what `join_labels` returns, and of
numbers what `number_text` returns, in the same form in manifests, `split.csv` and predictions.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from regraft.data.strings import Names, string_array
from regraft.errors import UsageError

#: classification: one class for each image; multilabel: any number of classes, also none; regression: a number.
Task = Literal["classification", "multilabel", "regression"]
#: What a user may ask for; `auto` finds out, and `ordinal` is a classification whose classes have an order.
AskedTask = Literal["auto", "classification", "multilabel", "ordinal", "regression"]
#: What a model is built for: a task, or that of classes which have an order.
ModelTask = Literal["classification", "multilabel", "ordinal", "regression"]
SEPARATOR = "|"
#: What is recognized between several labels in a cell; names may have commas, and hardly ever bars.
SEPARATORS = (SEPARATOR, ";", ",")
#: Largest number to predict; variances are sums of squares, in float64.
_LARGEST = 1e100


@dataclass(frozen=True)
class LabelOptions:
    """What a user says about labels: the task, and what is between several labels in a cell ("": recognized).

    `order` has the names of classes that have an order, lowest first; an order alone asks for the task `ordinal`.
    Raises `UsageError` for another task, a separator beside one label for each image, or an order for another task.
    """

    task: AskedTask = "auto"
    separator: str = ""
    order: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.task not in get_args(AskedTask):
            raise UsageError(f"task={self.task!r}; expected {', '.join(get_args(AskedTask))}.")
        if self.order and self.task not in ("auto", "ordinal"):
            raise UsageError(
                f"order={','.join(self.order)} is of classes that have one (task=ordinal), and the task is "
                f"{self.task}. Leave one of them out."
            )
        if self.separator and (self.is_ordinal or self.task in ("classification", "regression")):
            task = "ordinal" if self.is_ordinal else self.task
            raise UsageError(
                f"label_separator={self.separator!r} has no effect with task={task}, where an image has one "
                "label. Leave one of them out."
            )

    @property
    def is_ordinal(self) -> bool:
        """Whether the classes have an order."""
        return self.task == "ordinal" or bool(self.order)

    @property
    def read_as(self) -> Task | Literal["auto"]:
        """The task by which sources read labels, to which an order of the classes makes no difference."""
        return "classification" if self.task == "ordinal" or self.order else self.task


#: Nothing said.
UNSAID = LabelOptions()


def join_labels(labels: Iterable[str]) -> str:
    """Different labels, sorted, as one text with `|` between them; as a JSON list if a name would be misread."""
    names = sorted(set(labels))
    if any(not name.strip() or name[0] in "[{" or any(mark in name for mark in SEPARATORS) for name in names):
        return json.dumps(names, ensure_ascii=False)
    return SEPARATOR.join(names)


def split_labels(text: str) -> tuple[str, ...]:
    """The inverse of `join_labels`; the empty text has no labels."""
    if text.startswith("["):
        return tuple(json.loads(text))
    return tuple(text.split(SEPARATOR)) if text else ()


def number_text(text: str) -> str:
    """A number as it is stored, such as `3` for ` 3.0 `: equal numbers have equal texts.

    Raises `ValueError` if the text is no finite number, or one other than 0 outside of 1e-100 to 1e100 in size.
    """
    try:
        value = math.nan if "_" in text else float(text)  # Python reads 12_5 as 125
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{text.strip()[:40]!r}; expected a finite number with a decimal point, such as 12.5")
    if value and not 1 / _LARGEST <= abs(value) <= _LARGEST:
        raise ValueError(f"{text.strip()[:40]!r}; expected 0, or a size from {1 / _LARGEST:g} to {_LARGEST:g}")
    return str(int(value)) if value.is_integer() and abs(value) < 2**53 else repr(value)


def numbers(labels: Names) -> np.ndarray:
    """The number of each image, float64 (N,), for labels that `number_text` returned."""
    values: np.ndarray = np.array([float(text) for text in labels.names.tolist()], np.float64)[labels.codes]
    return values


def quantile_bins(labels: Names, *, least: int = 5, most: int = 10) -> Names:
    """Names of at most `most` bins of the numbers with about equally many images, of `least` or more each.

    Images with one number are in one bin, and a bin of larger numbers has a later name.
    """
    values = numbers(labels)
    count = max(1, min(most, len(values) // least))
    edges = np.unique(np.quantile(values, np.arange(1, count) / count)) if len(values) else np.empty(0)
    codes = np.searchsorted(edges, values, side="left").astype(np.int32)
    return Names(codes, string_array([f"{number:02d}" for number in range(len(edges) + 1)]))


def names_in(label: str, task: Task) -> tuple[str, ...]:
    """The classes that a label names: itself, or of a multi-label data set those in it."""
    return split_labels(label) if task == "multilabel" else (label,)


def classes_in(labels: Names | Sequence[str], task: Task) -> set[str]:
    """The classes that labels name: these themselves, or of a multi-label data set those in each of them."""
    texts = labels.used() if isinstance(labels, Names) else labels
    return {name for text in texts for name in split_labels(text)} if task == "multilabel" else set(texts)


def indicators(labels: Names, classes: Sequence[str]) -> np.ndarray:
    """Whether each image has each class, bool (N, C), for labels that `join_labels` returned.

    Raises `KeyError` with the name of a label that is none of the classes.
    """
    column = {name: number for number, name in enumerate(classes)}
    of_code = np.zeros((len(labels.names) + 1, len(classes)), bool)  # the last is that of the code -1
    for code in np.unique(labels.codes).tolist():
        if code >= 0:
            of_code[code, [column[name] for name in split_labels(labels.names[code])]] = True
    return np.asarray(of_code[labels.codes])
