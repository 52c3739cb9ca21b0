"""Find classes that an image likely lacks or has, contrary to its labels, from probabilities of a model.

Each class is a question with two answers, to which `regraft.evaluation.label_errors` is applied. That is what
cleanlab's multi-label filter does, here with the same bound: only labels that are more probably wrong than right, and
more evidence the more classes there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from regraft.evaluation.label_errors import find_label_errors


@dataclass(frozen=True)
class LabelDoubt:
    """An image and a class that it likely has or lacks, contrary to its labels.

    Attributes:
        index: Number of the image.
        column: Number of the class.
        is_labeled: Whether the labels have the class, which is then likely wrong.
        probability: Probability of the class, 0..1, by the model.
    """

    index: int
    column: int
    is_labeled: bool
    probability: float

    @property
    def suggestion(self) -> str:
        """What to do with the class: add or remove."""
        return "remove" if self.is_labeled else "add"

    @property
    def certainty(self) -> float:
        """Probability, 0..1, of what is contrary to the label."""
        return 1 - self.probability if self.is_labeled else self.probability


def find_label_doubts(
    indicators: np.ndarray, probabilities: np.ndarray, columns: Sequence[int] | None = None
) -> list[LabelDoubt]:
    """Find likely wrong answers of the labels to whether an image has a class, the most certain first.

    Args:
        indicators: Whether each image has each class, bool (N, C).
        probabilities: float64 (N, C), of a model that was trained without these images.
        columns: The classes that are asked about; default: all. Those that no image or every image has are left out.

    Returns:
        At most one for each image and class.
    """
    asked = range(indicators.shape[1]) if columns is None else columns
    tested = [i for i in asked if indicators[:, i].any() and not indicators[:, i].all()]
    doubts = []
    for i in tested:
        said = np.stack([1 - probabilities[:, i], probabilities[:, i]], axis=1)
        for error in find_label_errors(indicators[:, i].astype(np.int64), said, tests=len(tested)):
            is_labeled = bool(indicators[error.index, i])
            doubts.append(LabelDoubt(error.index, i, is_labeled, float(probabilities[error.index, i])))
    return sorted(doubts, key=lambda doubt: -doubt.certainty)
