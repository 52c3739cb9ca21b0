from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss, log_loss

from regraft.errors import DataError
from regraft.evaluation.calibration import (
    BINS,
    apply_temperature,
    chance_errors,
    fit_temperature,
    measure_calibration,
    read_calibration,
)
from regraft.evaluation.predictions import Predictions


def softmax(logits: np.ndarray) -> np.ndarray:
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    return raised / raised.sum(axis=1, keepdims=True)


def sample(count: int, classes: int, temperature: float, seed: int = 0) -> Predictions:
    """Labels drawn from softmax(logits / temperature), with probabilities at temperature 1."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 3, (count, classes))
    truth = softmax(logits / temperature).cumsum(axis=1)
    labels = (rng.random((count, 1)) > truth).sum(axis=1).clip(0, classes - 1)
    return Predictions.from_arrays(labels, softmax(logits))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
@pytest.mark.parametrize("classes", [2, 12])
def test_the_fitted_temperature_calibrates(classes, temperature):
    known, unseen = sample(6000, classes, temperature), sample(6000, classes, temperature, seed=1)
    fitted = fit_temperature(known)
    assert fitted == pytest.approx(temperature, rel=0.08)
    calibrated = Predictions.from_arrays(unseen.labels, apply_temperature(unseen.probabilities, fitted))
    before, after = measure_calibration(unseen), measure_calibration(calibrated)
    assert after.ece < 0.03
    if temperature != 1.0:
        assert after.ece < before.ece / 2
        assert after.loss < before.loss
        assert after.brier < before.brier
    assert (calibrated.predicted == unseen.predicted).all()


def test_the_temperature_stays_finite():
    sure = Predictions.from_arrays(np.zeros(50, int), np.tile([0.9, 0.1], (50, 1)))
    assert 0.2 < fit_temperature(sure) < 1
    assert fit_temperature(Predictions.from_arrays(np.zeros(0, int), np.zeros((0, 2)), ["a", "b"])) == 1.0
    wrong = Predictions.from_arrays(np.ones(50, int), np.tile([1.0, 0.0], (50, 1)))  # confident and wrong
    assert np.isfinite(fit_temperature(wrong))
    assert fit_temperature(wrong) > 5


def test_the_error_by_chance_is_that_of_a_calibrated_model():
    """30 images, where 16 points are as usual as none; of many calibrated models 95 % lie in the interval."""
    rng = np.random.default_rng(0)
    drawn = [sample(30, 5, 1.0, seed=seed) for seed in range(200)]
    found = [measure_calibration(predictions) for predictions in drawn]
    assert all(0 < c.chance_interval[0] < c.chance < c.chance_interval[1] < 1 for c in found)
    inside = [c.chance_interval[0] <= c.ece <= c.chance_interval[1] for c in found]
    assert np.mean(inside) > 0.9
    assert np.mean([c.ece for c in found]) == pytest.approx(np.mean([c.chance for c in found]), rel=0.1)
    confidence = rng.uniform(0.5, 1, 400)
    truth = rng.random((1000, 400)) < confidence
    bins = np.ceil(confidence * BINS)
    errors = sum(np.abs((truth - confidence)[:, bins == b].sum(axis=1)) for b in np.unique(bins)) / 400
    assert chance_errors(confidence).mean() == pytest.approx(errors.mean(), rel=0.03)


def test_a_calibration_error_is_called_one_only_above_chance():
    calibrated, overconfident = measure_calibration(sample(300, 5, 1.0)), measure_calibration(sample(300, 5, 3.0))
    assert calibrated.describe().endswith(": no evidence of miscalibration")
    assert "points on 300 images, where a perfectly calibrated model shows " in overconfident.describe()
    assert overconfident.describe().endswith(": the model is miscalibrated")
    assert "too few to measure it (20 or more)" in measure_calibration(sample(19, 5, 3.0)).describe()
    json = overconfident.to_json()
    assert read_calibration(json) == overconfident
    old = {name: value for name, value in json.items() if not name.startswith("chance")}
    assert not read_calibration(old).is_miscalibrated
    assert "what chance alone gives is not known" in read_calibration(old).describe()


def test_agrees_with_scikit_learn():
    rng = np.random.default_rng(0)
    for _ in range(20):
        count, classes = int(rng.integers(1, 80)), int(rng.integers(2, 7))
        predictions = Predictions.from_arrays(
            rng.integers(0, classes, count), rng.dirichlet(np.full(classes, 0.5), count)
        )
        result = measure_calibration(predictions)
        one_hot = np.eye(classes)[predictions.labels]
        assert result.brier == pytest.approx(((predictions.probabilities - one_hot) ** 2).sum(axis=1).mean(), abs=1e-9)
        if classes == 2 and len(set(predictions.labels)) == 2:
            assert result.brier == pytest.approx(
                2 * brier_score_loss(predictions.labels, predictions.probabilities[:, 1]), abs=1e-9
            )
        assert result.loss == pytest.approx(
            log_loss(predictions.labels, predictions.probabilities, labels=range(classes)), abs=1e-9
        )
        ece = 0.0
        for low, high in zip(np.arange(BINS) / BINS, np.arange(1, BINS + 1) / BINS, strict=True):
            inside = (predictions.confidence > low) & (predictions.confidence <= high)
            if inside.any():
                right = (predictions.predicted == predictions.labels)[inside].mean()
                ece += inside.mean() * abs(predictions.confidence[inside].mean() - right)
        assert result.ece == pytest.approx(ece, abs=1e-9)
        assert sum(result.count) == count


def test_no_predictions_are_refused():
    with pytest.raises(DataError, match="0 predictions"):
        measure_calibration(Predictions.from_arrays(np.zeros(0, int), np.zeros((0, 2)), ["a", "b"]))


def test_a_temperature_can_be_reversed():
    predictions = sample(100, 4, 1.0)
    there = apply_temperature(predictions.probabilities, 2.0)
    assert apply_temperature(there, 0.5) == pytest.approx(predictions.probabilities)
    assert apply_temperature(predictions.probabilities, 1.0) is predictions.probabilities
