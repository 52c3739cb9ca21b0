"""Class probabilities of labeled images: one frozen, checked value, also as CSV."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from regraft.atomic_io import write_csv
from regraft.data.dataset import PARTS
from regraft.data.pooling import Counted
from regraft.errors import DataError, cause_of
from regraft.notebook_repr import NotebookRepr
from regraft.spreadsheets import read_rows

#: Largest deviation from 1 of the sum of an image's probabilities; wide enough for half precision.
SUM_TOLERANCE = 1e-3

#: The columns before those of the probabilities.
COLUMNS = ["id", "label", "predicted", "part"]


@dataclass(frozen=True, eq=False)
class Predictions(NotebookRepr):
    """Class probabilities of N labeled images; the arrays are copied and read-only.

    Attributes:
        ids: Name of each image, length N.
        labels: True class index of each image, int64 (N,), in 0..C-1.
        probabilities: float64 (N, C), each at least 0, each row summing to 1 within `SUM_TOLERANCE`.
        classes: Class names in the order of the columns, length C, all different.
        parts: `train`, `val`, `test`, or "" for images outside a split; length N.
        ordered: Whether the classes have an order, lowest first, so that an error may be small or large.
        counted: What is predicted: an `image`, or a `group` of images that gets one answer.

    Raises:
        DataError: The values are inconsistent.
    """

    ids: tuple[str, ...]
    labels: np.ndarray
    probabilities: np.ndarray
    classes: tuple[str, ...]
    parts: tuple[str, ...]
    ordered: bool = False
    counted: Counted = "image"

    def __post_init__(self) -> None:
        labels, probabilities = np.asarray(self.labels), np.asarray(self.probabilities)
        _check(self.ids, labels, probabilities, self.classes, self.parts)
        for name, array in (("labels", labels.astype(np.int64)), ("probabilities", probabilities.astype(np.float64))):
            array.setflags(write=False)
            object.__setattr__(self, name, array)

    @classmethod
    def from_arrays(
        cls,
        labels: ArrayLike,
        probabilities: ArrayLike,
        classes: Sequence[str] | None = None,
        ids: Sequence[str] | None = None,
        ordered: bool = False,
    ) -> Predictions:
        """Create predictions of any model from plain arrays.

        Args:
            labels: True class indices (N,).
            probabilities: (N, C).
            classes: C names; default: "0", "1", ...
            ids: N names; default: "0", "1", ...
            ordered: Whether the classes have an order, lowest first.

        Raises:
            DataError: The values are inconsistent.
        """
        labels, probabilities = np.asarray(labels), np.asarray(probabilities)
        if not labels.size:
            labels = labels.astype(np.int64)  # numpy makes an empty list a float array
        if classes is None:
            classes = [str(i) for i in range(probabilities.shape[-1] if probabilities.ndim else 0)]
        if ids is None:
            ids = [str(i) for i in range(labels.size)]
        return cls(tuple(ids), labels, probabilities, tuple(classes), ("",) * len(ids), ordered)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def predicted(self) -> np.ndarray:
        """The most probable class of each image, int64 (N,); in a tie the first."""
        return np.asarray(self.probabilities.argmax(axis=1))

    @property
    def confidence(self) -> np.ndarray:
        """The probability of the predicted class, float64 (N,)."""
        return np.asarray(self.probabilities.max(axis=1))

    @property
    def right(self) -> np.ndarray:
        """Whether the predicted class of each image is the true one, bool (N,)."""
        return np.asarray(self.predicted == self.labels)

    @property
    def label_names(self) -> list[str]:
        """The true class of each image by name, length N."""
        return [self.classes[label] for label in self.labels.tolist()]

    def part(self, name: str) -> Predictions:
        """The predictions of one part, in the same order; may be empty. DataError for an unknown part."""
        if name not in (*PARTS, ""):
            raise DataError(f'part {name!r}; expected train, val, test or ""')
        return self.take(np.array([i for i, part in enumerate(self.parts) if part == name], np.int64))

    def take(self, rows: np.ndarray) -> Predictions:
        """The predictions with these numbers, int64 (n,), in their order."""
        ids, parts = (tuple(values[i] for i in rows.tolist()) for values in (self.ids, self.parts))
        labels, probabilities = self.labels[rows], self.probabilities[rows]
        return replace(self, ids=ids, labels=labels, probabilities=probabilities, parts=parts)

    def write_csv(self, path: Path) -> None:
        """Write one row per image: `id,label,predicted,part`, then `p(<class>)` for each class, with all digits."""
        names = self.classes
        rows = (
            [self.ids[i], names[self.labels[i]], names[predicted], self.parts[i], *self.probabilities[i].tolist()]
            for i, predicted in enumerate(self.predicted)
        )
        write_csv(path, [*COLUMNS, *(f"p({name})" for name in names)], rows)

    @classmethod
    def read_csv(cls, path: Path) -> Predictions:
        """The inverse of `write_csv`; the classes are in the order of the columns. DataError for any other file."""
        try:
            with path.open(newline="", encoding="utf-8") as file:
                header, *rows = read_rows(file)
        except (OSError, ValueError, csv.Error) as error:  # ValueError: the file is empty or not UTF-8
            raise DataError(f"{path} cannot be read as predictions: {cause_of(error)}") from error
        classes = classes_of(header, path)
        index = {name: i for i, name in enumerate(classes)}
        labels, probabilities = [], []
        for number, row in enumerate(rows, start=2):
            try:
                probabilities.append([float(cell) for cell in row[len(COLUMNS) :]])
                labels.append(index[row[1]])
                if len(row) != len(header):
                    raise ValueError(f"{len(row)} cells, expected {len(header)}")
            except KeyError as error:
                raise DataError(f"{path}, row {number}: label {error}; expected one of {', '.join(classes)}") from error
            except (ValueError, IndexError) as error:
                raise DataError(f"{path}, row {number}: {error}") from error
        return cls(
            tuple(row[0] for row in rows),
            np.array(labels, dtype=np.int64),
            np.array(probabilities, dtype=np.float64).reshape(len(rows), len(classes)),
            classes,
            tuple(row[3] for row in rows),
        )


def classes_of(header: Sequence[str], path: Path) -> tuple[str, ...]:
    """The classes in the header of a table of predictions; `DataError` if it is another table."""
    columns = header[len(COLUMNS) :]
    if list(header[: len(COLUMNS)]) != COLUMNS or not all(c.startswith("p(") and c.endswith(")") for c in columns):
        raise DataError(
            f"{path} has the columns {', '.join(header)}; expected {', '.join(COLUMNS)}, then p(<class>) for each class"
        )
    return tuple(column[2:-1] for column in columns)


def _check(
    ids: Sequence[str], labels: np.ndarray, probabilities: np.ndarray, classes: Sequence[str], parts: Sequence[str]
) -> None:
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise DataError(f"labels of shape {labels.shape} and type {labels.dtype}; expected whole numbers (N,)")
    expected = (len(labels), len(classes))
    if probabilities.shape != expected or probabilities.dtype.kind != "f":
        raise DataError(
            f"probabilities of shape {probabilities.shape} and type {probabilities.dtype}; expected floats "
            f"{expected} for {expected[0]} labels and {expected[1]} classes"
        )
    if not len(ids) == len(parts) == len(labels):
        raise DataError(f"{len(ids)} ids, {len(parts)} parts and {len(labels)} labels; expected equal numbers")
    if not classes or len(set(classes)) != len(classes):
        raise DataError(f"classes {', '.join(classes) or '(none)'}; expected at least one, all different")
    if unknown := set(parts) - {*PARTS, ""}:
        raise DataError(f'parts {", ".join(sorted(unknown))}; expected train, val, test or ""')
    if len(labels) and not (labels.min() >= 0 and labels.max() < len(classes)):
        raise DataError(f"labels from {labels.min()} to {labels.max()}; expected 0 to {len(classes) - 1}")
    sums = probabilities.sum(axis=1, dtype=np.float64)
    for fault, wrong in (
        ("a probability that is not finite", ~np.isfinite(probabilities).all(axis=1)),
        ("a negative probability", (probabilities < 0).any(axis=1)),
        ("probabilities that do not sum to 1", np.abs(sums - 1) > SUM_TOLERANCE),
    ):
        if wrong.any():
            row = int(np.argmax(wrong))
            raise DataError(
                f"{fault} for {ids[row]!r} (sum {sums[row]:.6g}), {wrong.sum()} such rows; expected probabilities in "
                "0..1 that sum to 1 in each row (the output of softmax, not logits)"
            )
