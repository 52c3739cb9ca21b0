"""Predictions: what a model said about labelled images.

Enters: arrays, or a run's `predictions.csv`. Leaves: one frozen, checked value that metrics and pictures are
made from.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from regraft.data.dataset import PARTS
from regraft.errors import DataError
from regraft.files import write_csv
from regraft.shown import Shown

#: How far the probabilities of one image may sum from 1; wide enough for half precision.
SUM_TOLERANCE = 1e-3

_COLUMNS = ["id", "label", "predicted", "part"]


@dataclass(frozen=True, eq=False)
class Predictions(Shown, by="regraft.report.notebook.predictions"):
    """Class probabilities of N labelled images; the arrays are copied and read-only.

    Attributes:
        ids: Name of each image, length N.
        labels: True class index of each image, int64 (N,), in 0..C-1.
        probabilities: float64 (N, C), each at least 0, each row summing to 1 within `SUM_TOLERANCE`.
        classes: Class names in the order of the columns, length C, all different.
        parts: `train`, `val`, `test`, or "" where the image is in no split; length N.

    Raises:
        DataError: The values do not fit together.
    """

    ids: tuple[str, ...]
    labels: np.ndarray
    probabilities: np.ndarray
    classes: tuple[str, ...]
    parts: tuple[str, ...]

    def __post_init__(self) -> None:
        """Check, copy and lock the arrays."""
        labels, probabilities = np.asarray(self.labels), np.asarray(self.probabilities)
        _check_shapes(self.ids, labels, probabilities, self.classes, self.parts)
        _check_values(self.ids, labels, probabilities, self.classes, self.parts)
        for name, array in (
            ("labels", labels.astype(np.int64)),
            ("probabilities", probabilities.astype(np.float64)),
        ):
            array.setflags(write=False)
            object.__setattr__(self, name, array)

    @classmethod
    def from_arrays(
        cls,
        labels: ArrayLike,
        probabilities: ArrayLike,
        classes: Sequence[str] | None = None,
        ids: Sequence[str] | None = None,
    ) -> Predictions:
        """Predictions of any model, from plain arrays.

        Args:
            labels: True class indices (N,).
            probabilities: (N, C).
            classes: C names; default: "0", "1", ...
            ids: N names; default: "0", "1", ...

        Raises:
            DataError: The values do not fit together.
        """
        labels = np.asarray(labels)
        probabilities = np.asarray(probabilities)
        if not labels.size:
            labels = labels.astype(np.int64)  # an empty list has no whole-number type of its own
        if classes is None:
            classes = [str(i) for i in range(probabilities.shape[-1] if probabilities.ndim else 0)]
        if ids is None:
            ids = [str(i) for i in range(labels.size)]
        return cls(tuple(ids), labels, probabilities, tuple(classes), ("",) * len(ids))

    def __len__(self) -> int:
        """Number of images."""
        return len(self.labels)

    @property
    def predicted(self) -> np.ndarray:
        """The most probable class of each image, int64 (N,); of equals the first."""
        predicted: np.ndarray = np.argmax(self.probabilities, axis=1)
        return predicted

    @property
    def confidence(self) -> np.ndarray:
        """The probability of the predicted class, float64 (N,)."""
        confidence: np.ndarray = self.probabilities.max(axis=1)
        return confidence

    def part(self, name: str) -> Predictions:
        """The predictions of one part, in the same order; may be empty.

        Raises:
            DataError: No part has this name.
        """
        if name not in (*PARTS, ""):
            raise DataError(f'part {name!r}; expected train, val, test or ""')
        rows = [i for i, part in enumerate(self.parts) if part == name]
        ids = tuple(self.ids[i] for i in rows)
        return Predictions(ids, self.labels[rows], self.probabilities[rows], self.classes, (name,) * len(rows))

    def write_csv(self, path: Path) -> None:
        """Write one row per image: `id,label,predicted,part`, then `p(<class>)` for each class.

        Labels are class names. Probabilities have as many digits as reading back the same numbers takes.
        """
        names = self.classes
        write_csv(
            path,
            [*_COLUMNS, *(f"p({name})" for name in names)],
            (
                [
                    self.ids[i],
                    names[self.labels[i]],
                    names[predicted],
                    self.parts[i],
                    *self.probabilities[i].tolist(),
                ]
                for i, predicted in enumerate(self.predicted)
            ),
        )

    @classmethod
    def read_csv(cls, path: Path) -> Predictions:
        """The inverse of `write_csv`; the order of the classes is that of the columns.

        Raises:
            DataError: The file cannot be read, or is not what `write_csv` writes.
        """
        try:
            with path.open(newline="", encoding="utf-8") as file:
                header, *rows = csv.reader(file)
        except (
            OSError,
            ValueError,
            csv.Error,
        ) as error:  # ValueError: an empty file, or one that is not UTF-8
            raise DataError(f"{path} cannot be read as predictions: {error}") from error
        columns = header[len(_COLUMNS) :]
        if header[: len(_COLUMNS)] != _COLUMNS or not all(c.startswith("p(") and c.endswith(")") for c in columns):
            raise DataError(
                f"{path} has the columns {', '.join(header)}; "
                f"expected {', '.join(_COLUMNS)}, then p(<class>) for each class"
            )
        classes = tuple(column[2:-1] for column in columns)
        index = {name: i for i, name in enumerate(classes)}
        labels, probabilities = [], []
        for number, row in enumerate(rows, start=2):
            try:
                probabilities.append([float(cell) for cell in row[len(_COLUMNS) :]])
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


def _check_shapes(
    ids: Sequence[str],
    labels: np.ndarray,
    probabilities: np.ndarray,
    classes: Sequence[str],
    parts: Sequence[str],
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
        raise DataError(f"{len(ids)} ids, {len(parts)} parts and {len(labels)} labels; expected as many of each")


def _check_values(
    ids: Sequence[str],
    labels: np.ndarray,
    probabilities: np.ndarray,
    classes: Sequence[str],
    parts: Sequence[str],
) -> None:
    if not classes or len(set(classes)) != len(classes):
        raise DataError(f"classes {', '.join(classes) or '(none)'}; expected at least one, all different")
    if unknown := set(parts) - {*PARTS, ""}:
        raise DataError(f'parts {", ".join(sorted(unknown))}; expected train, val, test or ""')
    if len(labels) and not (labels.min() >= 0 and labels.max() < len(classes)):
        raise DataError(f"labels from {labels.min()} to {labels.max()}; expected 0 to {len(classes) - 1}")
    for fault, wrong in (
        ("a probability that is no finite number", ~np.isfinite(probabilities).all(axis=1)),
        ("a negative probability", (probabilities < 0).any(axis=1)),
        (
            "probabilities that do not sum to 1",
            np.abs(probabilities.sum(axis=1, dtype=np.float64) - 1) > SUM_TOLERANCE,
        ),
    ):
        if wrong.any():
            row = int(np.argmax(wrong))
            raise DataError(
                f"{fault} for {ids[row]!r} (sum {probabilities[row].sum():.6g}), {wrong.sum()} such rows; "
                "expected probabilities in 0..1 that sum to 1 in each row, as softmax gives them, not logits"
            )
