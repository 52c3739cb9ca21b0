"""Numbers that a model gives images, beside the true ones: one frozen, checked value, also as CSV."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from regraft.atomic_io import write_csv
from regraft.data.labels import number_text
from regraft.data.pooling import Counted
from regraft.data.samples import PARTS
from regraft.errors import DataError, cause_of
from regraft.notebook_repr import NotebookRepr
from regraft.spreadsheets import read_rows

COLUMNS = ["id", "target", "predicted", "low", "high", "part"]


@dataclass(frozen=True, eq=False)
class RegressionPredictions(NotebookRepr):
    """True and predicted numbers of N images; the arrays are read-only.

    Attributes:
        ids: Name of each image, length N.
        targets: True numbers, float64 (N,).
        values: Predicted numbers, float64 (N,).
        parts: `train`, `val`, `test`, or "" for images outside a split; length N.
        half_width: Half the width of the prediction interval about each value, 0 or more; None: there is none.
        quantity: What the numbers are, such as "age".
        counted: What is predicted: an `image`, or a `group` of images that gets one answer.
    """

    ids: tuple[str, ...]
    targets: np.ndarray
    values: np.ndarray
    parts: tuple[str, ...]
    half_width: float | None = None
    quantity: str = "value"
    counted: Counted = "image"

    def __post_init__(self) -> None:
        for name in ("targets", "values"):
            array = np.array(getattr(self, name), dtype=np.float64)
            if array.shape != (len(self.ids),):
                raise DataError(f"{name} of shape {array.shape}; expected ({len(self.ids)},) for as many ids")
            if not np.isfinite(array).all():
                raise DataError(f"{name} has {array[~np.isfinite(array)][0]}; expected finite numbers")
            array.setflags(write=False)
            object.__setattr__(self, name, array)
        if len(self.parts) != len(self.ids):
            raise DataError(f"{len(self.ids)} ids and {len(self.parts)} parts; expected equal numbers")
        if unknown := set(self.parts) - {*PARTS, ""}:
            raise DataError(f'parts {", ".join(sorted(unknown))}; expected train, val, test or ""')
        if self.half_width is not None and not 0 <= self.half_width < math.inf:
            raise DataError(f"half_width = {self.half_width}; expected a number from 0")

    @classmethod
    def from_arrays(
        cls,
        targets: ArrayLike,
        values: ArrayLike,
        *,
        ids: Sequence[str] | None = None,
        half_width: float | None = None,
    ) -> RegressionPredictions:
        """Create predictions of any model from plain arrays (N,); ids are by default "0", "1", ...

        Raises:
            DataError: The values are inconsistent.
        """
        names = [str(i) for i in range(np.size(targets))] if ids is None else ids
        return cls(tuple(names), np.asarray(targets), np.asarray(values), ("",) * len(names), half_width)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def classes(self) -> tuple[str]:
        """The name of the quantity, as a model has it."""
        return (self.quantity,)

    @property
    def residuals(self) -> np.ndarray:
        """Predicted minus true, float64 (N,)."""
        return np.asarray(self.values - self.targets)

    def part(self, name: str) -> RegressionPredictions:
        """The predictions of one part, in the same order; may be empty. DataError for an unknown part."""
        if name not in (*PARTS, ""):
            raise DataError(f'part {name!r}; expected train, val, test or ""')
        return self.take(np.array([i for i, part in enumerate(self.parts) if part == name], np.int64))

    def take(self, rows: np.ndarray) -> RegressionPredictions:
        """The predictions with these numbers, int64 (n,), in their order."""
        ids, parts = (tuple(values[i] for i in rows.tolist()) for values in (self.ids, self.parts))
        return replace(self, ids=ids, targets=self.targets[rows], values=self.values[rows], parts=parts)

    def write_csv(self, path: Path) -> None:
        """Write `id,target,predicted,low,high,part`, with all digits; without an interval, two cells are empty."""
        width = self.half_width
        rows = (
            [name, number_text(repr(target)), value, *(("", "") if width is None else (value - width, value + width)),
             part]
            for name, target, value, part in zip(
                self.ids, self.targets.tolist(), self.values.tolist(), self.parts, strict=True
            )
        )  # fmt: skip
        write_csv(path, COLUMNS, rows)

    @classmethod
    def read_csv(cls, path: Path, half_width: float | None, quantity: str = "value") -> RegressionPredictions:
        """The inverse of `write_csv`, for the interval and quantity of the model. DataError for any other file."""
        try:
            with path.open(newline="", encoding="utf-8") as file:
                header, *rows = read_rows(file)
        except (OSError, ValueError, csv.Error) as error:  # ValueError: the file is empty or not UTF-8
            raise DataError(f"{path} cannot be read as predictions: {cause_of(error)}") from error
        if header != COLUMNS:
            raise DataError(f"{path} has the columns {', '.join(header)}; expected {', '.join(COLUMNS)}")
        try:
            targets, values = (np.array([float(row[i]) for row in rows], np.float64) for i in (1, 2))
            ids, parts = (tuple(row[i] for row in rows) for i in (0, 5))
        except (ValueError, IndexError) as error:
            raise DataError(f"{path} is damaged: {error}. Copy the file again.") from error
        return cls(ids, targets, values, parts, half_width, quantity)
