"""The predictions of all tasks, and their metrics: one function that chooses by the kind of predictions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from regraft.evaluation.metrics import Evaluation, evaluate
from regraft.evaluation.multilabel.metrics import MultilabelEvaluation, evaluate_labels
from regraft.evaluation.multilabel.predictions import MultilabelPredictions
from regraft.evaluation.predictions import Predictions
from regraft.evaluation.regression.metrics import RegressionEvaluation, evaluate_numbers
from regraft.evaluation.regression.predictions import RegressionPredictions

AnyPredictions = Predictions | MultilabelPredictions | RegressionPredictions
AnyEvaluation = Evaluation | MultilabelEvaluation | RegressionEvaluation

_EVALUATE: Mapping[type, Callable[[Any], AnyEvaluation]] = {
    Predictions: evaluate,
    MultilabelPredictions: evaluate_labels,
    RegressionPredictions: evaluate_numbers,
}


def evaluate_any(predictions: AnyPredictions) -> AnyEvaluation:
    """Compute the metrics of predictions of any task; DataError without predictions."""
    return _EVALUATE[type(predictions)](predictions)
