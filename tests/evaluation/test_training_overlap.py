"""What is said of an evaluation whose images have trained the model."""

from __future__ import annotations

import numpy as np
import pytest

from regraft.evaluation.predictions import Predictions
from regraft.evaluation.regression.predictions import RegressionPredictions
from regraft.evaluation.tasks import AnyPredictions, evaluate_any
from regraft.evaluation.training_overlap import TrainingOverlap

IDS = tuple(f"{i}.png" for i in range(20))
LABELS = np.arange(20) % 4
ANSWERS = np.where(np.arange(20) < 12, LABELS, (LABELS + np.arange(20) % 3) % 4)


def predicted(*, ordered: bool) -> Predictions:
    return Predictions.from_arrays(LABELS, np.eye(4)[ANSWERS], ("a", "b", "c", "d"), list(IDS), ordered)


def known_half(predictions: AnyPredictions) -> TrainingOverlap:
    """The overlap where the first ten images are training images."""
    rest = evaluate_any(predictions.take(np.arange(10, 20)))
    return TrainingOverlap(10, 0, 10, rest.accuracy, rest.accuracy_interval, "", rest.headline)


def test_the_kappa_of_classes_with_an_order_is_corrected_as_the_accuracy_is() -> None:
    predictions = predicted(ordered=True)
    whole, overlap = evaluate_any(predictions), known_half(predictions)
    (kappa, _), (corrected, (low, high)) = (
        scores["quadratic weighted kappa"] for scores in (whole.headline, overlap.scores)
    )
    assert corrected < kappa
    assert overlap.accuracy is not None
    (text,) = overlap.cautions(whole.accuracy, whole.headline)
    assert f"% accuracy and the quadratic weighted kappa of {kappa:.4g} may be too high" in text
    assert f"Without them it is {100 * overlap.accuracy:.1f} %" in text
    assert f"the quadratic weighted kappa is {corrected:.4g} (95 % interval {low:.4g} to {high:.4g}) on 10" in text


def test_classes_without_an_order_have_an_accuracy_alone() -> None:
    predictions = predicted(ordered=False)
    (text,) = known_half(predictions).cautions(evaluate_any(predictions).accuracy, {})
    assert "kappa" not in text


def test_errors_are_too_small_and_are_measured_without_known_images() -> None:
    numbers = np.arange(20.0)
    predictions = RegressionPredictions(IDS, numbers, numbers + (np.arange(20) > 10), ("",) * 20, None, "age")
    whole, overlap = evaluate_any(predictions), known_half(predictions)
    (text,) = overlap.cautions(None, whole.headline)
    assert "so the mean absolute error of 0.45 may be too small" in text
    assert "Without them the mean absolute error is 0.9 (95 % interval " in text


@pytest.mark.parametrize("ordered", [True, False])
def test_it_is_stored_and_those_of_runs_before_are_read(ordered: bool) -> None:
    overlap = known_half(predicted(ordered=ordered))
    assert TrainingOverlap.from_json(overlap.to_json()) == overlap
    before = {name: value for name, value in overlap.to_json().items() if name != "scores"}
    assert TrainingOverlap.from_json(before).scores == {}
    numbers = TrainingOverlap.from_json({**before, "accuracy": None, "accuracy_interval": None})
    assert "Evaluate the other 10 images alone." in numbers.cautions(None, {"mean absolute error": (1.0, (0, 2))})[0]
