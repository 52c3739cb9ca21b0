"""What a model sees and says of pictures, as numbers: enough for tests of drift, and no picture."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from regraft.data.labels import Task
from regraft.evaluation.multilabel.predictions import MultilabelPredictions
from regraft.evaluation.predictions import Predictions
from regraft.evaluation.regression.predictions import RegressionPredictions
from regraft.evaluation.tasks import AnyPredictions


@dataclass(frozen=True, eq=False)
class Observations:
    """Numbers of pictures. Those of a reference may be of different pictures, so that the arrays have other lengths.

    Attributes:
        task: What the model says of a picture.
        classes: Names of the classes, (C,); of a number what it is.
        said: Whether the answer has each class, bool (N, C): one for each picture, or any number; of numbers (0, 0).
        confidence: Probability of the answer, 0..1; of several labels the least distance of a probability from its
            threshold, 0..1; float64 (N,), of numbers (0,).
        values: The numbers that are answered, float64 (N,), if that is the task, else (0,).
        distances: Distance from the nearest class of the training, float64 (N,); None: the model has no detector.
        features: What the head reads, float32 (N, F); None: unknown.
        names: Paths or other names of the pictures, (N,); () for a reference.
    """

    task: Task
    classes: tuple[str, ...]
    said: np.ndarray
    confidence: np.ndarray
    values: np.ndarray = field(default_factory=lambda: np.empty(0))
    distances: np.ndarray | None = None
    features: np.ndarray | None = None
    names: tuple[str, ...] = ()

    @classmethod
    def of_answers(
        cls, task: Task, classes: tuple[str, ...], answers: np.ndarray, thresholds: np.ndarray | None = None
    ) -> Observations:
        """Observations of probabilities, float64 (N, C), or numbers, (N, 1); several labels have thresholds, (C,)."""
        if task == "regression":
            return cls(task, classes, np.empty((0, 0), bool), np.empty(0), answers[:, 0])
        if task == "multilabel":
            assert thresholds is not None
            margins = np.abs(answers - thresholds)
            return cls(task, classes, answers >= thresholds, margins.min(axis=1, initial=1.0))
        said = np.zeros(answers.shape, bool)
        said[np.arange(len(answers)), answers.argmax(axis=1)] = True
        return cls(task, classes, said, answers.max(axis=1, initial=0.0))

    @classmethod
    def of_predictions(cls, predictions: AnyPredictions) -> Observations:
        """Observations of stored predictions."""
        match predictions:
            case RegressionPredictions():
                return cls.of_answers("regression", predictions.classes, predictions.values[:, None])
            case MultilabelPredictions():
                return cls.of_answers(
                    "multilabel", predictions.classes, predictions.probabilities, predictions.thresholds
                )
            case Predictions():
                return cls.of_answers("classification", predictions.classes, predictions.probabilities)

    def __len__(self) -> int:
        """Number of pictures with an answer."""
        return len(self.values if self.task == "regression" else self.said)

    def take(self, rows: np.ndarray) -> Observations:
        """Some of the pictures by their numbers, int64 (n,); all arrays must be of the same pictures."""
        return replace(
            self, said=self.said[rows] if len(self.said) else self.said,
            confidence=self.confidence[rows] if len(self.confidence) else self.confidence,
            values=self.values[rows] if len(self.values) else self.values,
            distances=None if self.distances is None else self.distances[rows],
            features=None if self.features is None else self.features[rows],
            names=tuple(self.names[row] for row in rows.tolist()) if self.names else (),
        )  # fmt: skip

    def said_of(self, row: int) -> str:
        """The answer for one picture as text."""
        if self.task == "regression":
            return f"{self.values[row]:.4g}"
        return ", ".join(self.classes[i] for i in np.flatnonzero(self.said[row]).tolist()) or "no label"

    def first_of_each(self) -> np.ndarray:
        """Rows of the pictures without those whose numbers are, to the last bit, those of an earlier one, int64 (n,).

        One picture that is answered twice gives the same bits. Without distances nothing is left out, since different
        pictures may have the same answer.
        """
        if self.distances is None:
            return np.arange(len(self))
        answers = self.values if self.task == "regression" else self.confidence
        _, first = np.unique(np.stack([self.distances, answers]), axis=1, return_index=True)
        return np.sort(first)
