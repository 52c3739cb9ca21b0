"""Metrics of several labels agree with scikit-learn's, and survive JSON."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence

import numpy as np
import pytest
import sklearn
from sklearn import metrics as sklearn_metrics

from regraft.errors import DataError
from regraft.evaluation.multilabel.metrics import (
    MultilabelEvaluation,
    binary_log_loss,
    evaluate_labels,
    indicator_f1,
)
from regraft.evaluation.multilabel.predictions import MultilabelPredictions


def random_case(rng: np.random.Generator) -> MultilabelPredictions:
    """Random answers for up to 40 images and two to five classes, also with equal probabilities and empty classes."""
    shape = int(rng.integers(1, 40)), int(rng.integers(2, 6))
    truth = rng.random(shape) < rng.random(shape[1])
    probabilities = np.clip(truth * rng.random() * 0.6 + rng.random(shape) * 0.6, 0, 1)
    if rng.random() < 0.5:
        probabilities = probabilities.round(1)
    return MultilabelPredictions.from_arrays(truth, probabilities, thresholds=rng.random(shape[1]))


def side_by_side(tables: Sequence[np.ndarray], filling: float = 0) -> np.ndarray:
    """The columns of all tables in one, below each other's end so much `filling` that all have the same length."""
    rows = max(map(len, tables))
    return np.concatenate(
        [np.pad(table, ((0, rows - len(table)), (0, 0)), constant_values=filling) for table in tables], axis=1
    )


def test_scores_are_those_of_scikit_learn_in_random_cases(monkeypatch: pytest.MonkeyPatch) -> None:
    """scikit-learn, whose calls take long, gets the classes of all cases at once.

    Images are added to the shorter cases that are without the class, not answered with it and ranked last, and change
    none of these scores.
    """
    monkeypatch.setattr("regraft.evaluation.multilabel.metrics._DRAWS", 2)
    rng = np.random.default_rng(0)
    cases = [random_case(rng) for _ in range(1000)]
    truths, saids = [case.indicators for case in cases], [case.predicted for case in cases]
    all_truth, all_said = side_by_side(truths), side_by_side(saids)
    without_checks = {"assume_finite": True, "skip_parameter_validation": True}  # of scikit-learn, for each class
    with warnings.catch_warnings(), sklearn.config_context(**without_checks):
        warnings.simplefilter("ignore")  # of classes without images
        table = sklearn_metrics.precision_recall_fscore_support(all_truth, all_said, average=None, zero_division=0)
        all_probabilities = side_by_side([case.probabilities for case in cases], filling=-1)
        average_precisions = sklearn_metrics.average_precision_score(all_truth, all_probabilities, average=None)
    flat_truth, flat_said = (side_by_side([one.reshape(-1, 1) for one in values]) for values in (truths, saids))
    micro = sklearn_metrics.f1_score(flat_truth, flat_said, average=None, zero_division=0)
    counts = sklearn_metrics.multilabel_confusion_matrix(flat_truth, flat_said)
    ends = np.cumsum([truth.shape[1] for truth in truths])[:-1]
    expected = {
        name: np.split(values, ends)
        for name, values in zip(
            ("precision", "recall", "f1", "support", "average_precision"), (*table, average_precisions), strict=True
        )
    }
    for number, (case, truth, said) in enumerate(zip(cases, truths, saids, strict=True)):
        ours = evaluate_labels(case)
        for name, values in expected.items():
            assert np.allclose([getattr(row, name) for row in ours.per_class], values[number]), name
        assert ours.micro_f1 == pytest.approx(micro[number])
        assert ours.exact_match == pytest.approx((truth == said).all(axis=1).mean())
        assert ours.hamming_loss == pytest.approx((counts[number, 0, 1] + counts[number, 1, 0]) / truth.size)
        tested = truth.any(axis=0) & ~truth.all(axis=0)
        f1, average_precision = expected["f1"][number], expected["average_precision"][number]
        assert ours.macro_f1 == pytest.approx(f1[tested].mean() if tested.any() else 0.0)
        assert indicator_f1(truth, said) == pytest.approx(ours.macro_f1)
        mean = average_precision[tested].mean() if tested.any() else 0.0
        assert ours.mean_average_precision == pytest.approx(mean)


def test_one_class_is_scored_as_it_is_among_others() -> None:
    rng = np.random.default_rng(4)
    truth, probabilities = rng.random((30, 2)) < 0.4, rng.random((30, 2))
    alone = evaluate_labels(MultilabelPredictions.from_arrays(truth[:, :1], probabilities[:, :1])).per_class[0]
    beside = evaluate_labels(MultilabelPredictions.from_arrays(truth, probabilities)).per_class[0]
    assert (alone.f1, alone.average_precision) == (beside.f1, beside.average_precision)


def test_the_loss_is_the_mean_of_those_of_the_classes() -> None:
    rng = np.random.default_rng(1)
    truth, probabilities = rng.random((30, 3)) < 0.5, rng.random((30, 3))
    expected = np.mean([sklearn_metrics.log_loss(truth[:, i], probabilities[:, i]) for i in range(3)])
    assert binary_log_loss(truth, probabilities) == pytest.approx(expected)


def test_an_evaluation_survives_json() -> None:
    evaluation = evaluate_labels(random_case(np.random.default_rng(2)))
    value = json.loads(json.dumps(evaluation.to_json(), allow_nan=False))
    again = MultilabelEvaluation.from_json(value)
    assert again.to_json() == evaluation.to_json()
    with pytest.raises(DataError, match="not an evaluation"):
        MultilabelEvaluation.from_json({"count": 1})


def test_intervals_contain_the_score_and_narrow_with_more_images() -> None:
    rng = np.random.default_rng(3)
    widths = []
    for count in (40, 400):
        truth = rng.random((count, 3)) < 0.4
        probabilities = 0.3 * truth + 0.7 * rng.random((count, 3))
        evaluation = evaluate_labels(MultilabelPredictions.from_arrays(truth, probabilities))
        low, high = evaluation.intervals["mean_average_precision"]
        assert low <= evaluation.mean_average_precision <= high
        widths.append(high - low)
    assert widths[1] < widths[0]


def test_without_images_there_is_nothing_to_evaluate() -> None:
    with pytest.raises(DataError, match="at least one image"):
        evaluate_labels(MultilabelPredictions.from_arrays(np.zeros((0, 2), bool), np.zeros((0, 2))))


def test_few_images_without_errors_leave_a_wide_interval() -> None:
    widths = []
    for count in (12, 120):
        truth = np.arange(count)[:, None] % 2 == np.array([[0, 1]])
        evaluation = evaluate_labels(MultilabelPredictions.from_arrays(truth, 0.1 + 0.8 * truth))
        assert evaluation.mean_average_precision == evaluation.macro_f1 == 1
        for low, high in (*evaluation.intervals.values(), evaluation.per_class[0].average_precision_interval):
            assert high == 1
            assert 0.5 < low < 0.995
        widths.append(1 - evaluation.intervals["mean_average_precision"][0])
    assert widths[0] > 4 * widths[1]


@pytest.mark.parametrize(("count", "signal"), [(60, 2.0), (300, 1.0)])
def test_intervals_have_their_coverage(count: int, signal: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("regraft.evaluation.multilabel.metrics._DRAWS", 200)
    rng = np.random.default_rng(0)

    def drawn(size: int) -> MultilabelPredictions:
        truth = rng.random((size, 3)) < 0.4
        scores = signal * (truth - 0.5) + rng.normal(size=truth.shape)
        return MultilabelPredictions.from_arrays(truth, 1 / (1 + np.exp(-scores)))

    true = evaluate_labels(drawn(100_000))
    found = [evaluate_labels(drawn(count)) for _ in range(200)]
    for name in ("mean_average_precision", "macro_f1"):
        inside = [one.intervals[name][0] <= getattr(true, name) <= one.intervals[name][1] for one in found]
        assert 0.90 <= np.mean(inside) <= 0.995, name  # the standard error of the share is 1.5 points
