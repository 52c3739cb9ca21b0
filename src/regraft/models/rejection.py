"""Decide when a prediction is not accepted, and give predictions as plain values, for commands and the server."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from regraft.models.inference import Prediction


@dataclass(frozen=True)
class RejectionPolicy:
    """Thresholds of rejection, 0..1; None turns a rule off."""

    min_confidence: float | None = None  # of an accepted prediction
    min_probability: float | None = None  # of a class in the prediction set
    ood_threshold: float | None = None  # p-values up to it are those of out-of-distribution images
    label_thresholds: tuple[float, ...] = ()  # of each class of several labels, instead of the model's

    @property
    def columns(self) -> list[str]:
        """Names of the values that the active rules add to a prediction."""
        thresholds = {
            "out_of_distribution": self.ood_threshold,
            "accepted": self.min_confidence,
            "prediction_set": self.min_probability,
        }
        return [name for name, threshold in thresholds.items() if threshold is not None]

    def of(self, prediction: Prediction) -> dict[str, Any]:
        """The values by column name; empty where the image could not be read."""
        values: dict[str, Any] = {}
        if prediction.error is not None:
            return values
        if self.ood_threshold is not None and prediction.ood_p_value is not None:
            values["out_of_distribution"] = prediction.ood_p_value <= self.ood_threshold
        if self.min_confidence is not None:
            values["accepted"] = prediction.answer_at(self.min_confidence) is not None
        if self.min_probability is not None:
            ranked = prediction.top(len(prediction.classes))
            values["prediction_set"] = [name for name, p in ranked if p >= self.min_probability]
        return values

    def label(self, prediction: Prediction) -> str | None:
        """The answer, or all labels as `join_labels` writes them; None where the image is out-of-distribution."""
        if self.of(prediction).get("out_of_distribution"):
            return None
        return self.decide(prediction).label if prediction.thresholds else self.answer(prediction)[0]

    def labels(self, prediction: Prediction) -> tuple[str, ...] | None:
        """The labels of the image, the most probable first; None where out-of-distribution."""
        return None if self.of(prediction).get("out_of_distribution") else self.decide(prediction).labels

    def decide(self, prediction: Prediction) -> Prediction:
        """The prediction with the thresholds of this policy, if it has any."""
        return replace(prediction, thresholds=self.label_thresholds) if self.label_thresholds else prediction

    def answer(self, prediction: Prediction) -> tuple[str, float]:
        """The answer and its confidence: the most probable class, or the node of a tree that is sure enough.

        The class stays where no node is. "" and 0 if the image could not be read.
        """
        found = None if self.min_confidence is None else prediction.answer_at(self.min_confidence)
        return found or (prediction.label, prediction.confidence)

    def to_json(self, prediction: Prediction, count: int) -> dict[str, Any]:
        """Plain values: label, confidence, p-value, the policy's columns and the `count` top classes, or the error.

        Where an image may have any number of labels, these are in `labels` instead, and each class has its threshold. A
        number is in `value`, with its `interval`, or None, and the `quantity` that it is of. With a tree also `levels`,
        the most probable node at each step from its top to a class.
        """
        if prediction.error is not None:
            return {"error": prediction.error}
        if prediction.value is not None:
            return {
                "quantity": prediction.classes[0],
                "value": prediction.value,
                "interval": None if prediction.interval is None else list(prediction.interval),
                "ood_p_value": prediction.ood_p_value,
                **self.of(prediction),
            }
        if prediction.thresholds:
            labels, decided = self.labels(prediction), self.decide(prediction)
            limit_of = dict(zip(decided.classes, decided.thresholds, strict=True))
            ranked = [
                {"label": name, "probability": p, "threshold": limit_of[name]}
                for name, p in decided.top(len(decided.classes))
            ]
            return {
                "labels": None if labels is None else [row for row in ranked if row["label"] in labels],
                "ood_p_value": prediction.ood_p_value,
                **self.of(prediction),
                "top": ranked[:count],
            }
        values = {
            "label": self.label(prediction),
            "confidence": self.answer(prediction)[1],
            "ood_p_value": prediction.ood_p_value,
            **self.of(prediction),
            "top": [{"label": name, "probability": p} for name, p in prediction.top(count)],
        }
        if prediction.taxonomy is not None:
            values["levels"] = [{"label": name, "probability": p} for name, p in prediction.levels()]
        return values
