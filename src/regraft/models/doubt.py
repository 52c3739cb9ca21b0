"""When not to answer, and an answer as plain values: the same for the command and for the server.

Enters: a `Prediction`. Leaves: what is doubtful about it, and its JSON value.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from regraft.models.inference import Prediction


@dataclass(frozen=True)
class Doubt:
    """When not to answer; each None where it was not asked for.

    Attributes:
        sure: From which confidence an answer is sure.
        least: From which probability a class is in the set.
        strange: At or below which familiarity an image is unknown.
    """

    sure: float | None = None
    least: float | None = None
    strange: float | None = None

    @property
    def columns(self) -> list[str]:
        """Names of what was asked for."""
        asked = {"unknown": self.strange, "sure": self.sure, "set": self.least}
        return [name for name, level in asked.items() if level is not None]

    def of(self, prediction: Prediction) -> dict[str, Any]:
        """By the names of the columns; nothing where the image could not be read."""
        found: dict[str, Any] = {}
        if prediction.error is not None:
            return found
        if self.strange is not None and prediction.familiarity is not None:
            found["unknown"] = prediction.familiarity <= self.strange
        if self.sure is not None:
            found["sure"] = prediction.confidence >= self.sure
        if self.least is not None:
            found["set"] = [name for name, p in prediction.top(len(prediction.classes)) if p >= self.least]
        return found

    def label(self, prediction: Prediction) -> str | None:
        """The class, or None where the image is unknown."""
        return None if self.of(prediction).get("unknown") else prediction.label

    def to_json(self, prediction: Prediction, count: int) -> dict[str, Any]:
        """Plain values: label, confidence, familiarity, doubts and the `count` likeliest classes, or the error."""
        if prediction.error is not None:
            return {"error": prediction.error}
        return {
            "label": self.label(prediction),
            "confidence": prediction.confidence,
            "familiarity": prediction.familiarity,
            **self.of(prediction),
            "top": [{"label": name, "probability": p} for name, p in prediction.top(count)],
        }
