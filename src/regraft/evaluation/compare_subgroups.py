"""Score the predictions of each camera, site or other value, and compare each with all others.

Input: predictions of any task, and the value of each. Output: `Subgroups`. A share of right answers is compared by
Fisher's exact test (Fisher 1935, The Design of Experiments), with the interval of Newcombe 1998; other scores by the
Bayesian bootstrap (Rubin 1981), whose draws of the two sides are independent. All p-values are adjusted by Holm.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from regraft.evaluation.comparison import holm, of_draws
from regraft.evaluation.intervals import draw_image_weights
from regraft.evaluation.metrics import Evaluation
from regraft.evaluation.multilabel.metrics import (
    MultilabelEvaluation,
    draws_of_average_precision,
    mean_average_precision,
)
from regraft.evaluation.multilabel.predictions import MultilabelPredictions
from regraft.evaluation.predictions import Predictions
from regraft.evaluation.regression.metrics import RegressionEvaluation
from regraft.evaluation.regression.predictions import RegressionPredictions
from regraft.evaluation.subgroups import FEW_IMAGES, Subgroup, Subgroups
from regraft.evaluation.tasks import AnyPredictions, evaluate_any
from regraft.evaluation.training_overlap import Scores

_Compared = tuple[float, tuple[float, float], float]


def _class_scores(evaluation: Evaluation) -> Scores:
    """Accuracy, macro F1, and for classes with an order what these are judged by."""
    return {
        "accuracy": (evaluation.accuracy, evaluation.accuracy_interval),
        "macro F1": (evaluation.macro_f1, evaluation.intervals["macro_f1"]),
        **evaluation.headline,
    }


def _compare_accuracy(group: Predictions, others: Predictions) -> _Compared | None:
    """The difference of the accuracies; None without others."""
    if not len(others):
        return None
    from scipy.stats import fisher_exact  # half a second, of those alone who ask for subgroups

    from regraft.evaluation.drift.two_samples import share_difference

    right, other = int(group.right.sum()), int(others.right.sum())
    table = ((right, len(group) - right), (other, len(others) - other))
    interval = share_difference(other, len(others), right, len(group))
    return right / len(group) - other / len(others), interval, float(fisher_exact(table).pvalue)


def _label_scores(evaluation: MultilabelEvaluation) -> Scores:
    """Mean average precision, macro F1 and exact match; {} if every class is in all of the images or in none."""
    if not evaluation.tested:
        return {}
    return {
        **evaluation.headline,
        "macro F1": (evaluation.macro_f1, evaluation.intervals["macro_f1"]),
        "all answers right": (evaluation.exact_match, evaluation.exact_match_interval),
    }


def _compare_precision(group: MultilabelPredictions, others: MultilabelPredictions) -> _Compared | None:
    """The difference of the mean average precisions, over the classes that both sides test; None if too few."""
    sides = (group, others)
    if min(map(len, sides)) < FEW_IMAGES:
        return None
    tested = np.logical_and.reduce([p.indicators.any(axis=0) & ~p.indicators.all(axis=0) for p in sides])
    if not tested.any():
        return None
    pairs = [(p.indicators[:, tested], p.probabilities[:, tested]) for p in sides]
    draws = [draws_of_average_precision(*pair, seed=seed).mean(axis=1) for seed, pair in enumerate(pairs)]
    difference = mean_average_precision(*pairs[0]) - mean_average_precision(*pairs[1])
    (low, high), p = of_draws(difference, draws[0] - draws[1])
    return difference, (max(-1.0, low), min(1.0, high)), p


def _number_scores(evaluation: RegressionEvaluation) -> Scores:
    """Mean absolute error and RMSE."""
    return {**evaluation.headline, "RMSE": (evaluation.rmse, evaluation.intervals["rmse"])}


def _compare_errors(group: RegressionPredictions, others: RegressionPredictions) -> _Compared | None:
    """The difference of the mean absolute errors; None if too few."""
    errors = [np.abs(p.residuals) for p in (group, others)]
    if min(map(len, errors)) < FEW_IMAGES:
        return None
    draws = [
        np.concatenate([weights @ one for weights in draw_image_weights(len(one), seed=seed)])
        for seed, one in enumerate(errors)
    ]
    difference = float(errors[0].mean() - errors[1].mean())
    interval, p = of_draws(difference, draws[0] - draws[1])
    return difference, interval, p


@dataclass(frozen=True)
class _Task:
    """How subgroups of a task are scored and compared."""

    metric: str
    test: str
    scores: Callable[[Any], Scores]
    compare: Callable[[Any, Any], _Compared | None]
    lower_is_better: bool = False


_BOOTSTRAP = "Bayesian bootstrap"
_TASKS: Mapping[type, _Task] = {
    Predictions: _Task("accuracy", "Fisher's exact test", _class_scores, _compare_accuracy),
    MultilabelPredictions: _Task("mAP", _BOOTSTRAP, _label_scores, _compare_precision),
    RegressionPredictions: _Task("mean absolute error", _BOOTSTRAP, _number_scores, _compare_errors, True),
}


def compare_subgroups(
    predictions: AnyPredictions, columns: Mapping[str, Sequence[str | None]]
) -> tuple[Subgroups, ...]:
    """Score and compare the subgroups by each of `columns`, which have a value for each prediction, or None."""
    return tuple(_compare(predictions, by, values) for by, values in columns.items())


def _compare(predictions: AnyPredictions, by: str, values: Sequence[str | None]) -> Subgroups:
    task = _TASKS[type(predictions)]
    known = np.array([value is not None for value in values], bool)
    names = np.array([value or "" for value in values], object)
    groups = []
    for name in sorted({value for value in values if value is not None}):
        is_in = known & (names == name)
        group, others = (predictions.take(np.flatnonzero(rows)) for rows in (is_in, known & ~is_in))
        compared = task.compare(group, others) if len(others) else None
        difference, interval, p = compared or (None, None, None)
        scores = task.scores(evaluate_any(group))
        groups.append(Subgroup(name, len(group), scores, difference, interval, p))
    sign = -1 if task.lower_is_better else 1

    def badness(group: Subgroup) -> tuple[bool, float]:
        return not group.scores, sign * group.scores[task.metric][0] if group.scores else 0.0

    ordered = tuple(sorted(_adjusted(groups), key=badness))
    without = int((~known).sum())
    return Subgroups(by, task.metric, task.test, ordered, task.lower_is_better, without, predictions.counted)


def _adjusted(groups: Sequence[Subgroup]) -> list[Subgroup]:
    """The subgroups with p-values that are corrected for their number; of two there is one comparison."""
    p_values = [group.p for group in groups if group.p is not None]
    adjusted = iter(p_values if len(groups) == 2 else holm(p_values))
    return [group if group.p is None else replace(group, p_adjusted=next(adjusted)) for group in groups]
