from __future__ import annotations

import numpy as np
import promises
import pytest

from regraft.errors import DataError, UsageError
from regraft.evaluation.abstention import conformal_threshold, risk_coverage, select, threshold_for
from regraft.evaluation.predictions import Predictions


def predict(*rows: tuple[float, bool]) -> Predictions:
    """Two classes: confidence of the first, and whether that is right."""
    probabilities = [(confidence, 1 - confidence) for confidence, _ in rows]
    return Predictions.from_arrays(np.array([0 if right else 1 for _, right in rows]), np.array(probabilities))


FEW = ((0.9, True), (0.8, True), (0.8, False), (0.7, True), (0.6, False))


def test_thresholds_of_a_small_example():
    predictions = predict(*FEW)
    found = threshold_for(predictions, 0.75)
    assert (found.threshold, found.coverage, found.accuracy, found.count) == (0.7, 0.8, 0.75, 5)
    assert threshold_for(predictions, 0.76).coverage == 0.2  # equal confidences are accepted together
    assert threshold_for(predictions, 0.5).coverage == 1.0
    assert select(predictions, 0.95).coverage == 0.0
    assert select(predictions, 0.95).accuracy_interval == (0.0, 1.0)
    coverage, errors = risk_coverage(predictions)
    assert coverage.tolist() == [0.2, 0.6, 0.8, 1.0]
    assert errors.tolist() == pytest.approx([0, 1 / 3, 1 / 4, 2 / 5])


def test_impossible_requirements_are_refused():
    predictions = predict((0.9, False), (0.8, True))
    with pytest.raises(
        UsageError, match=r"reaches an accuracy of 90 %: the best reaches 50.0 % on 2 validation images"
    ):
        threshold_for(predictions, 0.9)
    for wrong in (0, -1, 1.5):
        with pytest.raises(UsageError, match="expected a share"):
            threshold_for(predictions, wrong)
    for wrong in (0, 1, 2):
        with pytest.raises(UsageError, match="expected a share"):
            conformal_threshold(predictions, wrong)
    empty = Predictions.from_arrays(np.zeros(0, int), np.zeros((0, 2)), ["a", "b"])
    for call in (
        lambda: threshold_for(empty, 0.9),
        lambda: conformal_threshold(empty, 0.9),
        lambda: select(empty, 0.5),
    ):
        with pytest.raises(DataError, match="0 predictions"):
            call()


def test_the_required_accuracy_holds_on_other_images():
    accuracy, coverage = promises.accuracy_of_accepted(400, 0.9, 100)
    assert accuracy == pytest.approx(0.9, abs=0.015)
    assert coverage == pytest.approx(0.21, abs=0.03)


@pytest.mark.parametrize("coverage", [0.8, 0.9, 0.95])
@pytest.mark.parametrize("count", [50, 300])
def test_prediction_sets_have_the_required_coverage(coverage, count):
    assert coverage - 0.01 <= promises.coverage_of_sets(count, coverage, 400) <= coverage + 0.02 + 1 / count


def test_too_few_images_for_a_coverage_give_every_class():
    assert conformal_threshold(predict(*FEW), 0.9) == 0.0
    assert conformal_threshold(predict(*FEW), 0.5) > 0
