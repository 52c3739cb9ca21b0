"""Metrics of numbers agree with scikit-learn's, their intervals cover, and predictions survive their files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from regraft.errors import DataError
from regraft.evaluation.regression.metrics import RegressionEvaluation, evaluate_numbers
from regraft.evaluation.regression.predictions import RegressionPredictions


def random_case(rng: np.random.Generator) -> RegressionPredictions:
    """Numbers of up to 60 images in any unit and far from zero, rounded in half of the cases, predicted with errors."""
    count, scale = int(rng.integers(1, 60)), 10.0 ** rng.integers(-3, 4)
    targets = scale * (rng.normal(size=count) + rng.integers(-100, 100))
    if rng.random() < 0.5:
        targets = targets.round()
    values = targets + scale * rng.random() * rng.standard_t(3, size=count)
    return RegressionPredictions.from_arrays(targets, values, half_width=float(scale * rng.random()))


def test_scores_are_those_of_scikit_learn_in_random_cases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("regraft.evaluation.intervals._DRAWS", 2)
    rng = np.random.default_rng(0)
    for _ in range(1000):
        case = random_case(rng)
        ours, pair = evaluate_numbers(case), (case.targets, case.values)
        assert ours.mae == pytest.approx(sklearn_metrics.mean_absolute_error(*pair))
        assert ours.rmse == pytest.approx(sklearn_metrics.root_mean_squared_error(*pair))
        assert ours.median_absolute_error == pytest.approx(sklearn_metrics.median_absolute_error(*pair))
        if np.ptp(case.targets):
            assert ours.r2 == pytest.approx(sklearn_metrics.r2_score(*pair), abs=1e-9)
        else:
            assert ours.r2 is None


def test_predicting_the_mean_explains_nothing() -> None:
    targets = np.array([1.0, 2.0, 6.0])
    evaluation = evaluate_numbers(RegressionPredictions.from_arrays(targets, np.full(3, 3.0)))
    assert evaluation.r2 == pytest.approx(0, abs=1e-12)
    assert evaluation.rmse == pytest.approx(evaluation.deviation)
    assert evaluation.coverage is None


def test_intervals_contain_the_estimates_and_about_nineteen_of_twenty_true_errors() -> None:
    rng, inside, trials = np.random.default_rng(1), 0, 150
    expected = np.sqrt(2 / np.pi)  # the mean absolute value of a standard normal
    for _ in range(trials):
        targets = rng.normal(size=80)
        evaluation = evaluate_numbers(RegressionPredictions.from_arrays(targets, targets + rng.normal(size=80)))
        low, high = evaluation.intervals["mae"]
        assert low < evaluation.mae < high
        inside += low <= expected <= high
    assert inside / trials > 0.88


def test_the_order_of_the_images_does_not_matter() -> None:
    case = random_case(np.random.default_rng(5))
    shuffled = case.take(np.random.default_rng(0).permutation(len(case)))
    assert evaluate_numbers(shuffled).rmse == pytest.approx(evaluate_numbers(case).rmse)


def test_an_evaluation_survives_json() -> None:
    evaluation = evaluate_numbers(random_case(np.random.default_rng(2)))
    again = RegressionEvaluation.from_json(json.loads(json.dumps(evaluation.to_json(), allow_nan=False)))
    assert again == evaluation
    assert "RMSE" in str(again)
    with pytest.raises(DataError, match="not an evaluation"):
        RegressionEvaluation.from_json({"count": 3})


@pytest.mark.parametrize("half_width", [None, 0.25])
def test_predictions_survive_their_file(tmp_path: Path, half_width: float | None) -> None:
    case = RegressionPredictions(("a", "b"), np.array([0.1, 3]), np.array([1 / 3, 4e-9]), ("val", "test"), half_width)
    case.write_csv(tmp_path / "predictions.csv")
    again = RegressionPredictions.read_csv(tmp_path / "predictions.csv", half_width)
    assert (again.ids, again.parts) == (case.ids, case.parts)
    assert np.array_equal(again.targets, case.targets)
    assert np.array_equal(again.values, case.values)


def test_wrong_predictions_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="finite"):
        RegressionPredictions.from_arrays([1.0], [np.nan])
    with pytest.raises(DataError, match="shape"):
        RegressionPredictions.from_arrays([1.0, 2.0], [1.0])
    with pytest.raises(DataError, match="at least one"):
        evaluate_numbers(RegressionPredictions.from_arrays([], []))
    (tmp_path / "other.csv").write_text("id,label\na,b\n")
    with pytest.raises(DataError, match="expected id, target"):
        RegressionPredictions.read_csv(tmp_path / "other.csv", None)
