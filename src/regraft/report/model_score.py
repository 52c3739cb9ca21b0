"""What models of a task are ordered by in a comparison, and how it is written.

Input: a row of the table of models, from `run_table.run_row`. Output: the score's value, name and text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ModelScore:
    """A score of a model; rows have it as `val_KEY`, `test_KEY` and `test_KEY_interval`.

    Attributes:
        key: Its name in rows.
        name: Its name in a sentence.
        heading: Its name above a column.
        axis: Its name beside an axis.
        pattern: How a value is written, after multiplication with `factor` and before the `unit`.
        others: Heading, key and pattern of what stands beside it on a page.
        is_error: Whether smaller values are better, and there is no largest one.
    """

    key: str
    name: str
    heading: str
    axis: str
    pattern: str
    others: tuple[tuple[str, str, str], ...]
    factor: float = 1.0
    unit: str = ""
    is_error: bool = False

    @property
    def best(self) -> str:
        """What the score of the best model is among all."""
        return "lowest" if self.is_error else "highest"

    def merit(self, value: float | None) -> float:
        """A value of which larger ones are better; without a score, the worst that there is."""
        if value is None:
            return -float("inf") if self.is_error else 0.0
        return -value if self.is_error else value

    def text(self, value: float) -> str:
        """The score with its unit."""
        return self.pattern.format(self.factor * value) + self.unit

    def bounds(self, interval: tuple[float, float]) -> str:
        """An interval of the score, without a unit."""
        return " to ".join(self.pattern.format(self.factor * bound) for bound in interval)


#: The scores of all tasks; that of a model is the first one that it has.
_SCORES = (
    ModelScore(
        "accuracy", "accuracy", "Test accuracy", "accuracy", "{:.1f}",
        (("Macro-F1", "test_macro_f1", "{:.3f}"), ("Train accuracy", "train_accuracy", "{:.3f}"),
         ("Val accuracy", "val_accuracy", "{:.3f}")),
        factor=100.0, unit=" %",
    ),
    ModelScore(
        "mean_average_precision", "mAP", "Test mAP", "mean average precision (mAP)", "{:.3f}",
        (("Macro-F1", "test_macro_f1", "{:.3f}"),),
    ),
    ModelScore(
        "mae", "MAE", "Test MAE", "mean absolute error (MAE)", "{:.4g}",
        (("RMSE", "test_rmse", "{:.4g}"), ("R2", "test_r2", "{:.3f}"), ("Val MAE", "val_mae", "{:.4g}")),
        is_error=True,
    ),
)  # fmt: skip


def score_of(row: Mapping[str, Any]) -> ModelScore:
    """The score of the task of a row; of a row without any, that of images with one class."""
    return next((score for score in _SCORES if row.get(f"test_{score.key}") is not None), _SCORES[0])
