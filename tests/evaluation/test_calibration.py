from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import brier_score_loss, log_loss

from regraft.errors import DataError
from regraft.evaluation.calibration import BINS, fit_temperature, measure_calibration, tempered
from regraft.evaluation.predictions import Predictions
from regraft.report.reliability import plot_reliability


def softmax(logits: np.ndarray) -> np.ndarray:
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    return raised / raised.sum(axis=1, keepdims=True)


def drawn(count: int, classes: int, temperature: float, seed: int = 0) -> Predictions:
    """Labels drawn from softmax(logits / temperature), told with the probabilities at temperature 1."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 3, (count, classes))
    truth = softmax(logits / temperature).cumsum(axis=1)
    labels = (rng.random((count, 1)) > truth).sum(axis=1).clip(0, classes - 1)
    return Predictions.from_arrays(labels, softmax(logits))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
@pytest.mark.parametrize("classes", [2, 12])
def test_the_temperature_is_found_and_mends_confidence(classes, temperature):
    known, unseen = drawn(6000, classes, temperature), drawn(6000, classes, temperature, seed=1)
    fitted = fit_temperature(known)
    assert fitted == pytest.approx(temperature, rel=0.08)
    mended = Predictions.from_arrays(unseen.labels, tempered(unseen.probabilities, fitted))
    before, after = measure_calibration(unseen), measure_calibration(mended)
    assert after.ece < 0.03
    if temperature != 1.0:
        assert after.ece < before.ece / 2
        assert after.loss < before.loss
        assert after.brier < before.brier
    assert (mended.predicted == unseen.predicted).all()


def test_where_every_image_is_right_the_temperature_stays_within_reason():
    sure = Predictions.from_arrays(np.zeros(50, int), np.tile([0.9, 0.1], (50, 1)))
    assert 0.2 < fit_temperature(sure) < 1
    assert fit_temperature(Predictions.from_arrays(np.zeros(0, int), np.zeros((0, 2)), ["a", "b"])) == 1.0
    wrong = Predictions.from_arrays(np.ones(50, int), np.tile([1.0, 0.0], (50, 1)))  # surest of all, and wrong
    assert np.isfinite(fit_temperature(wrong))
    assert fit_temperature(wrong) > 5


def test_against_scikit_learn_and_a_second_way_to_count():
    rng = np.random.default_rng(0)
    for _ in range(50):
        count, classes = int(rng.integers(1, 80)), int(rng.integers(2, 7))
        told = Predictions.from_arrays(rng.integers(0, classes, count), rng.dirichlet(np.full(classes, 0.5), count))
        found = measure_calibration(told)
        one_hot = np.eye(classes)[told.labels]
        assert found.brier == pytest.approx(((told.probabilities - one_hot) ** 2).sum(axis=1).mean(), abs=1e-9)
        if classes == 2 and len(set(told.labels)) == 2:
            assert found.brier == pytest.approx(2 * brier_score_loss(told.labels, told.probabilities[:, 1]), abs=1e-9)
        assert found.loss == pytest.approx(log_loss(told.labels, told.probabilities, labels=range(classes)), abs=1e-9)
        ece = 0.0
        for low, high in zip(np.arange(BINS) / BINS, np.arange(1, BINS + 1) / BINS, strict=True):
            inside = (told.confidence > low) & (told.confidence <= high)
            if inside.any():
                right = (told.predicted == told.labels)[inside].mean()
                ece += inside.mean() * abs(told.confidence[inside].mean() - right)
        assert found.ece == pytest.approx(ece, abs=1e-9)
        assert sum(found.count) == count


def test_nothing_to_judge_by():
    with pytest.raises(DataError, match="0 predictions"):
        measure_calibration(Predictions.from_arrays(np.zeros(0, int), np.zeros((0, 2)), ["a", "b"]))


def test_tempering_back_and_forth():
    told = drawn(100, 4, 1.0)
    there = tempered(told.probabilities, 2.0)
    assert tempered(there, 0.5) == pytest.approx(told.probabilities)
    assert tempered(told.probabilities, 1.0) is told.probabilities


def test_the_picture(tmp_path: Path):
    told = drawn(300, 3, 2.0)
    mended = Predictions.from_arrays(told.labels, tempered(told.probabilities, 2.0))
    plot_reliability(measure_calibration(told), measure_calibration(mended), 2.0, tmp_path / "a.png", part="test")
    with Image.open(tmp_path / "a.png") as image:
        assert image.width > 1500
        assert len(np.unique(np.asarray(image.convert("L")))) > 20
