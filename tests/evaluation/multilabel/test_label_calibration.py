"""Calibration of each class by itself."""

from __future__ import annotations

import numpy as np
import pytest

from regraft.errors import DataError
from regraft.evaluation.multilabel.calibration import MultilabelCalibration, measure_label_calibration
from regraft.evaluation.multilabel.predictions import MultilabelPredictions


def predictions(shift: float, count: int = 400) -> MultilabelPredictions:
    """Three classes that images have as often as the probabilities say, whose logits are then shifted."""
    rng = np.random.default_rng(0)
    true = rng.random((count, 3))
    logits = np.log(true / (1 - true)) + shift
    return MultilabelPredictions.from_arrays(rng.random((count, 3)) < true, 1 / (1 + np.exp(-logits)))


def test_only_wrong_probabilities_are_miscalibrated() -> None:
    right, wrong = measure_label_calibration(predictions(0)), measure_label_calibration(predictions(1.5))
    assert not right.is_miscalibrated
    assert "no evidence of miscalibration" in right.describe()
    assert wrong.is_miscalibrated
    assert all(one.is_miscalibrated for one in wrong.per_class)
    assert wrong.ece == pytest.approx(np.mean([one.ece for one in wrong.per_class]))
    assert right.chance_interval[0] < right.ece < right.chance_interval[1]


def test_the_error_is_that_of_the_definition() -> None:
    given = predictions(0.7, 100)
    one = measure_label_calibration(given).per_class[1]
    said, has = given.probabilities[:, 1], given.indicators[:, 1]
    bins = np.minimum((said * 15).astype(int), 14)
    expected = sum(abs(said[bins == b].sum() - has[bins == b].sum()) for b in range(15)) / 100
    assert one.ece == pytest.approx(expected)
    assert one.brier == pytest.approx(((said - has) ** 2).mean())


def test_it_is_stored_as_json() -> None:
    measured = measure_label_calibration(predictions(0, 50))
    assert MultilabelCalibration.from_json(measured.to_json()) == measured
    with pytest.raises(DataError, match="not a calibration"):
        MultilabelCalibration.from_json({})
    with pytest.raises(DataError, match="0 predictions"):
        measure_label_calibration(predictions(0).take(np.empty(0, np.int64)))
