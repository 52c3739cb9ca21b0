"""Probabilities of images that have any number of classes: one frozen, checked value, also as CSV."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from regraft.atomic_io import write_csv
from regraft.data.labels import join_labels, split_labels
from regraft.data.pooling import Counted
from regraft.data.samples import PARTS
from regraft.errors import DataError, cause_of
from regraft.notebook_repr import NotebookRepr
from regraft.spreadsheets import read_rows

#: The columns before those of the probabilities.
COLUMNS = ["id", "labels", "predicted", "part"]


@dataclass(frozen=True, eq=False)
class MultilabelPredictions(NotebookRepr):
    """Probabilities of N images for C classes, of which an image may have any number; the arrays are read-only.

    Attributes:
        ids: Name of each image, length N.
        indicators: Whether each image has each class, bool (N, C).
        probabilities: float64 (N, C), each in 0..1; a row has no certain sum.
        classes: Class names in the order of the columns, length C, all different.
        parts: `train`, `val`, `test`, or "" for images outside a split; length N.
        thresholds: Probability from which on an image is said to have each class, float64 (C,).
        counted: What is predicted: an `image`, or a `group` of images that gets one answer.

    Raises:
        DataError: The values are inconsistent.
    """

    ids: tuple[str, ...]
    indicators: np.ndarray
    probabilities: np.ndarray
    classes: tuple[str, ...]
    parts: tuple[str, ...]
    thresholds: np.ndarray
    counted: Counted = "image"

    def __post_init__(self) -> None:
        types = {"indicators": bool, "probabilities": np.float64, "thresholds": np.float64}
        arrays = {name: np.array(getattr(self, name), dtype=kind) for name, kind in types.items()}
        _check(self.ids, arrays, self.classes, self.parts)
        for name, array in arrays.items():
            array.setflags(write=False)
            object.__setattr__(self, name, array)

    @classmethod
    def from_arrays(
        cls,
        indicators: ArrayLike,
        probabilities: ArrayLike,
        classes: Sequence[str] | None = None,
        *,
        thresholds: ArrayLike | None = None,
        ids: Sequence[str] | None = None,
    ) -> MultilabelPredictions:
        """Create predictions of any model from plain arrays.

        Args:
            indicators: Whether each image has each class, (N, C) of bool or 0 and 1.
            probabilities: (N, C).
            classes: C names; default: "0", "1", ...
            thresholds: (C,); default: 0.5 for all.
            ids: N names; default: "0", "1", ...

        Raises:
            DataError: The values are inconsistent.
        """
        probabilities = np.asarray(probabilities)
        count, columns = probabilities.shape if probabilities.ndim == 2 else (0, 0)
        names = [str(i) for i in range(columns)] if classes is None else classes
        ids = [str(i) for i in range(count)] if ids is None else ids
        limits = np.full(columns, 0.5) if thresholds is None else np.asarray(thresholds)
        return cls(tuple(ids), np.asarray(indicators), probabilities, tuple(names), ("",) * len(ids), limits)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def predicted(self) -> np.ndarray:
        """Whether each image is said to have each class, bool (N, C)."""
        return np.asarray(self.probabilities >= self.thresholds)

    @property
    def right(self) -> np.ndarray:
        """Whether the answers for all classes of each image are right, bool (N,)."""
        return np.asarray((self.predicted == self.indicators).all(axis=1))

    @property
    def label_names(self) -> list[str]:
        """The classes of each image as `join_labels` writes them, length N."""
        return self.names(self.indicators)

    def with_thresholds(self, thresholds: np.ndarray) -> MultilabelPredictions:
        """The same probabilities with other thresholds, float64 (C,)."""
        return replace(self, thresholds=thresholds)

    def part(self, name: str) -> MultilabelPredictions:
        """The predictions of one part, in the same order; may be empty. DataError for an unknown part."""
        if name not in (*PARTS, ""):
            raise DataError(f'part {name!r}; expected train, val, test or ""')
        return self.take(np.array([i for i, part in enumerate(self.parts) if part == name], np.int64))

    def take(self, rows: np.ndarray) -> MultilabelPredictions:
        """The predictions with these numbers, int64 (n,), in their order."""
        ids, parts = (tuple(values[i] for i in rows.tolist()) for values in (self.ids, self.parts))
        return replace(
            self, ids=ids, indicators=self.indicators[rows], probabilities=self.probabilities[rows], parts=parts
        )

    def only_classes(self, names: Sequence[str]) -> MultilabelPredictions:
        """The predictions of these classes alone, one or more, in their order."""
        columns = [self.classes.index(name) for name in names]
        return replace(
            self, indicators=self.indicators[:, columns], probabilities=self.probabilities[:, columns],
            classes=tuple(names), thresholds=self.thresholds[columns],
        )  # fmt: skip

    def names(self, indicators: np.ndarray) -> list[str]:
        """The classes of each row of indicators, bool (N, C), as `join_labels` writes them."""
        return [join_labels(self.classes[i] for i in np.flatnonzero(row)) for row in indicators]

    def write_csv(self, path: Path) -> None:
        """Write one row per image: `id,labels,predicted,part`, then `p(<class>)` for each class, with all digits."""
        columns = zip(
            self.ids, self.names(self.indicators), self.names(self.predicted), self.parts, self.probabilities.tolist(),
            strict=True,
        )  # fmt: skip
        rows = ([*cells, *probabilities] for *cells, probabilities in columns)
        write_csv(path, [*COLUMNS, *(f"p({name})" for name in self.classes)], rows)

    @classmethod
    def read_csv(cls, path: Path, thresholds: np.ndarray) -> MultilabelPredictions:
        """The inverse of `write_csv`, for the thresholds of the model, (C,). DataError for any other file."""
        try:
            with path.open(newline="", encoding="utf-8") as file:
                header, *rows = read_rows(file)
        except (OSError, ValueError, csv.Error) as error:  # ValueError: the file is empty or not UTF-8
            raise DataError(f"{path} cannot be read as predictions: {cause_of(error)}") from error
        names = header[len(COLUMNS) :]
        if header[: len(COLUMNS)] != COLUMNS or not all(c.startswith("p(") and c.endswith(")") for c in names):
            raise DataError(
                f"{path} has the columns {', '.join(header)}; expected {', '.join(COLUMNS)}, then p(<class>) for each "
                "class"
            )
        classes = tuple(name[2:-1] for name in names)
        column = {name: i for i, name in enumerate(classes)}
        indicators = np.zeros((len(rows), len(classes)), bool)
        probabilities = np.empty((len(rows), len(classes)))
        for i, row in enumerate(rows):
            try:
                indicators[i, [column[name] for name in split_labels(row[1])]] = True
                probabilities[i] = [float(cell) for cell in row[len(COLUMNS) :]]
            except KeyError as error:
                raise DataError(f"{path}, row {i + 2}: label {error}; expected some of {', '.join(classes)}") from error
            except (ValueError, IndexError) as error:
                raise DataError(f"{path}, row {i + 2}: {error}") from error
        ids, parts = (tuple(row[i] for row in rows) for i in (0, 3))
        return cls(ids, indicators, probabilities, classes, parts, thresholds)


def _check(ids: Sequence[str], arrays: dict[str, np.ndarray], classes: Sequence[str], parts: Sequence[str]) -> None:
    expected = (len(ids), len(classes))
    for name in ("indicators", "probabilities"):
        if arrays[name].shape != expected:
            raise DataError(
                f"{name} of shape {arrays[name].shape}; expected {expected} for {expected[0]} images and "
                f"{expected[1]} classes"
            )
    if arrays["thresholds"].shape != (len(classes),):
        raise DataError(f"thresholds of shape {arrays['thresholds'].shape}; expected ({len(classes)},)")
    if len(parts) != len(ids):
        raise DataError(f"{len(ids)} ids and {len(parts)} parts; expected equal numbers")
    if not classes or len(set(classes)) != len(classes):
        raise DataError(f"classes {', '.join(classes) or '(none)'}; expected at least one, all different")
    if unknown := set(parts) - {*PARTS, ""}:
        raise DataError(f'parts {", ".join(sorted(unknown))}; expected train, val, test or ""')
    wrong = ~((arrays["probabilities"] >= 0) & (arrays["probabilities"] <= 1)).all(axis=1)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise DataError(
            f"a probability outside 0..1 for {ids[row]!r}, {wrong.sum()} such rows; expected what a sigmoid returns, "
            "not logits"
        )
