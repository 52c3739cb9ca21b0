from __future__ import annotations

import numpy as np
import promises
import pytest

from regraft.errors import DataError, UsageError
from regraft.evaluation.abstention import conformal_threshold, risk_coverage, select, threshold_for
from regraft.evaluation.predictions import Predictions


def of(*answers: tuple[float, bool]) -> Predictions:
    """Two classes: confidence of the first, and whether that is right."""
    probabilities = [(confidence, 1 - confidence) for confidence, _ in answers]
    return Predictions.from_arrays(np.array([0 if right else 1 for _, right in answers]), np.array(probabilities))


FEW = ((0.9, True), (0.8, True), (0.8, False), (0.7, True), (0.6, False))


def test_a_threshold_by_hand():
    told = of(*FEW)
    found = threshold_for(told, 0.75)
    assert (found.threshold, found.coverage, found.accuracy, found.count) == (0.7, 0.8, 0.75, 5)
    assert threshold_for(told, 0.76).coverage == 0.2  # those of 0.8 are answered together
    assert threshold_for(told, 0.5).coverage == 1.0
    assert select(told, 0.95).coverage == 0.0
    assert select(told, 0.95).accuracy_interval == (0.0, 1.0)
    shares, wrong = risk_coverage(told)
    assert shares.tolist() == [0.2, 0.6, 0.8, 1.0]
    assert wrong.tolist() == pytest.approx([0, 1 / 3, 1 / 4, 2 / 5])


def test_what_cannot_be_had_is_said():
    told = of((0.9, False), (0.8, True))
    with pytest.raises(UsageError, match=r"right 90 % of the time: at best 50.0 % of 2 validation images"):
        threshold_for(told, 0.9)
    for wrong in (0, -1, 1.5):
        with pytest.raises(UsageError, match="expected a share"):
            threshold_for(told, wrong)
    for wrong in (0, 1, 2):
        with pytest.raises(UsageError, match="expected a share"):
            conformal_threshold(told, wrong)
    none = Predictions.from_arrays(np.zeros(0, int), np.zeros((0, 2)), ["a", "b"])
    for act in (lambda: threshold_for(none, 0.9), lambda: conformal_threshold(none, 0.9), lambda: select(none, 0.5)):
        with pytest.raises(DataError, match="0 predictions"):
            act()


def test_the_wanted_accuracy_is_had_on_other_images():
    right, answered = promises.accuracy_of_sure(400, 0.9, 100)
    assert right == pytest.approx(0.9, abs=0.015)
    assert answered == pytest.approx(0.21, abs=0.03)  # of what is drawn so unsure


@pytest.mark.parametrize("coverage", [0.8, 0.9, 0.95])
@pytest.mark.parametrize("count", [50, 300])
def test_sets_hold_the_true_class_as_often_as_they_should(coverage, count):
    assert coverage - 0.01 <= promises.coverage_of_sets(count, coverage, 400) <= coverage + 0.02 + 1 / count


def test_too_few_images_for_a_coverage_give_every_class():
    assert conformal_threshold(of(*FEW), 0.9) == 0.0
    assert conformal_threshold(of(*FEW), 0.5) > 0
