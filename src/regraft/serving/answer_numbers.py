"""Numbers of an answer that are counted and written down: what was said, how surely, how strange the picture is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from regraft.data.labels import Task
from regraft.evaluation.drift.observations import Observations
from regraft.models.inference import Prediction


@dataclass(frozen=True)
class AnswerNumbers:
    """Of one picture.

    Attributes:
        labels: The most probable class, or all labels of a picture that may have any number; () of a number.
        confidence: As in `Observations`; None of a number.
        value: The number, if that is the answer.
        ood_distance: As in `Prediction`.
        ood_p_value: As in `Prediction`.
    """

    labels: tuple[str, ...]
    confidence: float | None
    value: float | None
    ood_distance: float | None
    ood_p_value: float | None

    @classmethod
    def of(cls, prediction: Prediction, task: Task) -> AnswerNumbers:
        """The numbers of a prediction of an image that could be read."""
        if task == "regression":
            return cls((), None, prediction.value, prediction.ood_distance, prediction.ood_p_value)
        thresholds = np.array(prediction.thresholds) if prediction.thresholds else None
        observed = Observations.of_answers(task, prediction.classes, prediction.answer[None], thresholds)
        confidence = float(observed.confidence[0])
        return cls(prediction.labels, confidence, None, prediction.ood_distance, prediction.ood_p_value)

    @property
    def strange_key(self) -> float | None:
        """From 0 to 1, smaller for stranger pictures, or without a detector for less confident answers."""
        if self.ood_distance is not None and self.ood_p_value is not None:
            return self.ood_p_value * (1 + 1 / (1 + self.ood_distance)) / 2  # the distance decides among equals
        return self.confidence

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, without those that are unknown."""
        own = (
            {"value": self.value} if self.value is not None else {"labels": self.labels, "confidence": self.confidence}
        )
        seen = {"ood_distance": self.ood_distance, "ood_p_value": self.ood_p_value}
        return {**own, **{name: number for name, number in seen.items() if number is not None}}
