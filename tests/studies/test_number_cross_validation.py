"""Cross-validation where an image has a number."""

from __future__ import annotations

import csv
import json
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error
from typer.testing import CliRunner

import regraft
from regraft.cli import app
from regraft.cli.tasks.regression import print_cross_validation
from regraft.config import load_config
from regraft.data.dataset import Dataset
from regraft.data.strings import Names
from regraft.errors import UsageError
from regraft.evaluation.regression.conformal import conformal_half_width
from regraft.evaluation.regression.predictions import RegressionPredictions
from regraft.studies.answered import Answered
from regraft.studies.number_cross_validation import NumberCrossValidation, score_numbers
from regraft.training.callbacks import NullReporter
from regraft.training.cross_val_predict import cross_val_predict

SMALL = load_config(overrides={"model.image_size": 32, "data.task": "regression"})


def with_a_wrong_number(dataset: Dataset) -> Dataset:
    """The same images, the brightest of which has the number of a dark one."""
    numbers = dataset.numbers.copy()
    numbers[numbers.argmax()] = 1.0
    return dataset.with_samples(dataset.table.with_labels(Names.of(f"{number:g}" for number in numbers)))


@pytest.fixture(scope="module")
def validated(
    numbers_dataset: Dataset, tmp_path_factory: pytest.TempPathFactory
) -> tuple[NumberCrossValidation, Path, Dataset]:
    dataset, out = with_a_wrong_number(numbers_dataset), tmp_path_factory.mktemp("out") / "folds"
    result = regraft.cross_validate(dataset, 3, repeats=2, config=SMALL, out=out)
    assert isinstance(result, NumberCrossValidation)
    return result, out, dataset


def test_every_image_is_predicted_once(validated: tuple[NumberCrossValidation, Path, Dataset]) -> None:
    result, _, dataset = validated
    assert result.maes.shape == result.rmses.shape == result.r2s.shape == (2, 3)
    assert set(result.predictions.ids) == set(dataset.table.paths.tolist())
    assert result.evaluation.r2 is not None
    assert result.evaluation.r2 > 0.4
    low, high = result.evaluation.intervals["mae"]
    assert low < result.evaluation.mae < high
    assert "3 folds, 80 images, MAE" in repr(result)


def test_a_wrong_number_is_the_first_suspect(
    validated: tuple[NumberCrossValidation, Path, Dataset], numbers_dataset: Dataset
) -> None:
    result, out, _ = validated
    path, target, predicted, error = result.suspects[0]
    assert (path, target) == (numbers_dataset.samples[int(numbers_dataset.numbers.argmax())].path, 1.0)
    assert error == pytest.approx(predicted - target)
    assert error > 50
    with (out / "label_errors.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == [suspect[0] for suspect in result.suspects]
    assert rows[0]["target"] == "1.0"


def test_the_files_have_the_result(validated: tuple[NumberCrossValidation, Path, Dataset]) -> None:
    result, out, _ = validated
    assert {file.name for file in out.iterdir()} == {
        "crossval.json", "label_errors.csv", "predicted_true.png", "predictions.csv"
    }  # fmt: skip
    stored = RegressionPredictions.read_csv(out / "predictions.csv", result.predictions.half_width, "brightness")
    assert np.array_equal(stored.values, result.predictions.values)
    written = json.loads((out / "crossval.json").read_text())
    assert written["task"] == "regression"
    assert written["evaluation"]["rmse"] == result.evaluation.rmse
    assert len(written["fold_r2s"][1]) == 3


def test_scores_of_folds_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    truth, fold = rng.normal(40, 9, 60).round(1), np.arange(60) % 3
    said = truth + rng.normal(0, 3, 60)
    images = rng.integers(0, 255, (60, 8, 8, 3), dtype=np.uint8)
    dataset = Dataset.from_arrays(images, truth.tolist(), task="regression", quantity="age")
    result = score_numbers(dataset, Answered.of(dataset), [said[:, None]], [fold], {})
    one = fold == 1
    assert result.maes[0, 1] == pytest.approx(mean_absolute_error(truth[one], said[one]))
    assert result.rmses[0, 1] == pytest.approx(root_mean_squared_error(truth[one], said[one]))
    assert result.r2s[0, 1] == pytest.approx(r2_score(truth[one], said[one]))
    errors = np.abs(said - truth)
    inside = [errors[i] <= conformal_half_width((said - truth)[fold != fold[i]]) for i in range(60)]
    assert result.evaluation.coverage == pytest.approx(np.mean(inside))
    assert result.predictions.quantity == "age"


def test_a_gross_error_that_hides_the_model_is_named() -> None:
    rng = np.random.default_rng(0)
    truth, fold = rng.normal(40, 9, 60).round(1), np.arange(60) % 3
    said = truth + rng.normal(0, 3, 60)
    truth[7] = 1e9
    images = rng.integers(0, 255, (60, 8, 8, 3), dtype=np.uint8)
    dataset = Dataset.from_arrays(images, truth.tolist(), task="regression", quantity="age")
    result = score_numbers(dataset, Answered.of(dataset), [said[:, None]], [fold], {"total": 0.0})
    assert result.evaluation.no_better
    assert result.outliers == ((dataset.samples[7].path, 1e9),)
    assert result.to_json()["outliers"] == [{"path": dataset.samples[7].path, "target": 1e9}]
    screen = Console(file=StringIO(), width=400)
    print_cross_validation(screen, result)
    printed = screen.file.getvalue()  # type: ignore[attr-defined]
    assert "1 number is far from the others" in printed
    assert "regraft inspect" in printed
    assert f"{dataset.samples[7].path}: 1e+09" in printed


def test_a_head_of_a_fold_does_not_depend_on_the_unit() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(0, 1, (40, 6)).astype(np.float32)
    labels, fold = (features[:, :1] + rng.normal(0, 0.3, (40, 1))).astype(np.float32), np.arange(40) % 4

    def predict(targets: np.ndarray) -> np.ndarray:
        rows = torch.from_numpy(features)
        return cross_val_predict(rows, targets, fold, NullReporter(), classes=1, task="regression")

    assert np.allclose(predict(labels * 1000 + 500), predict(labels) * 1000 + 500, atol=1)
    assert np.corrcoef(predict(labels)[:, 0], labels[:, 0])[0, 1] > 0.8


def test_settings_of_classes_are_refused(numbers_dataset: Dataset) -> None:
    config = load_config(overrides={"training.class_weights": "balanced"})
    with pytest.raises(UsageError, match="regression"):
        regraft.cross_validate(numbers_dataset, 3, config=config)


def test_the_command_prints_the_errors(numbers_manifest: Path, tmp_path: Path) -> None:
    words = ["crossval", str(numbers_manifest), "-k", "2", "--task", "regression", "--set", "model.image_size=32"]
    done = CliRunner().invoke(app, [*words, "--out", str(tmp_path / "folds")])
    assert done.exit_code == 0, done.output
    assert "MAE by fold, repeat 1" in done.output
    assert "Mean absolute error" in done.output
    assert "predicted_true.png" in done.output
