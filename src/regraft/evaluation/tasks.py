"""The predictions of all tasks, their metrics and differences: functions that choose by the kind of predictions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from regraft.errors import DataError
from regraft.evaluation.comparison import Difference, paired_difference
from regraft.evaluation.metrics import Evaluation, evaluate
from regraft.evaluation.multilabel.comparison import PrecisionDifference, paired_precision_difference
from regraft.evaluation.multilabel.metrics import MultilabelEvaluation, evaluate_labels
from regraft.evaluation.multilabel.predictions import MultilabelPredictions
from regraft.evaluation.predictions import Predictions
from regraft.evaluation.regression.comparison import ErrorDifference, paired_error_difference
from regraft.evaluation.regression.metrics import RegressionEvaluation, evaluate_numbers
from regraft.evaluation.regression.predictions import RegressionPredictions

AnyPredictions = Predictions | MultilabelPredictions | RegressionPredictions
AnyEvaluation = Evaluation | MultilabelEvaluation | RegressionEvaluation
AnyDifference = Difference | PrecisionDifference | ErrorDifference

_EVALUATE: Mapping[type, Callable[[Any], AnyEvaluation]] = {
    Predictions: evaluate,
    MultilabelPredictions: evaluate_labels,
    RegressionPredictions: evaluate_numbers,
}


#: Kinds of predictions of two models, and the test of their difference.
_DIFFER: Mapping[type, Callable[[Any, Any], AnyDifference]] = {
    Predictions: paired_difference,
    MultilabelPredictions: paired_precision_difference,
    RegressionPredictions: paired_error_difference,
}


def paired_difference_any(first: AnyPredictions, second: AnyPredictions) -> AnyDifference:
    """Compare the predictions of two models of one task; DataError if tasks, images or labels differ."""
    if type(first) is not type(second):
        raise DataError("The models have different tasks.")
    return _DIFFER[type(first)](first, second)


def evaluate_any(predictions: AnyPredictions) -> AnyEvaluation:
    """Compute the metrics of predictions of any task; DataError without predictions."""
    return _EVALUATE[type(predictions)](predictions)
