"""Cross-validation where an image has any number of classes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import average_precision_score, f1_score
from terminal import csv_rows
from tests.conftest import COLORS, picture_of_some
from typer.testing import CliRunner

import regraft
from regraft.cli import app
from regraft.config import load_config
from regraft.data.dataset import Dataset
from regraft.errors import DataError
from regraft.evaluation.multilabel.predictions import MultilabelPredictions
from regraft.evaluation.multilabel.thresholds import choose_thresholds
from regraft.studies.answered import Answered
from regraft.studies.label_cross_validation import MultilabelCrossValidation, score_labels

SMALL = load_config(overrides={"model.image_size": 32, "data.task": "multilabel"})


@pytest.fixture(scope="module")
def validated(several_labels: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[MultilabelCrossValidation, Path]:
    out = tmp_path_factory.mktemp("out") / "folds"
    result = regraft.cross_validate(several_labels, 3, repeats=2, config=SMALL, out=out)
    assert isinstance(result, MultilabelCrossValidation)
    return result, out


def test_every_image_is_predicted_once(validated: tuple[MultilabelCrossValidation, Path]) -> None:
    result, _ = validated
    assert result.mean_average_precisions.shape == result.macro_f1s.shape == (2, 3)
    assert len(set(result.predictions.ids)) == 80
    assert result.evaluation.mean_average_precision > 0.75
    low, high = result.evaluation.intervals["mean_average_precision"]
    assert low < result.evaluation.mean_average_precision < high
    assert "3 folds, 80 images" in repr(result)


def test_the_files_have_the_result(validated: tuple[MultilabelCrossValidation, Path]) -> None:
    result, out = validated
    stored = MultilabelPredictions.read_csv(out / "predictions.csv", result.predictions.thresholds)
    assert np.array_equal(stored.probabilities, result.predictions.probabilities)
    written = json.loads((out / "crossval.json").read_text())
    assert written["task"] == "multilabel"
    assert written["evaluation"]["macro_f1"] == result.evaluation.macro_f1


def test_the_thresholds_for_an_image_are_those_of_other_folds() -> None:
    rng = np.random.default_rng(0)
    truth, fold = rng.random((60, 2)) < 0.4, np.arange(60) % 3
    probabilities = rng.random((60, 2))
    dataset = Dataset.from_arrays(
        rng.integers(0, 255, (60, 8, 8, 3), dtype=np.uint8),
        [[name for name, has in zip("ab", row, strict=True) if has] for row in truth],
    )
    result = score_labels(dataset, Answered.of(dataset), [probabilities], [fold], {})
    said = np.zeros_like(truth)
    for number in range(3):
        limits = choose_thresholds(truth[fold != number], probabilities[fold != number], "f1")
        said[fold == number] = probabilities[fold == number] >= limits
    assert result.evaluation.macro_f1 == pytest.approx(f1_score(truth, said, average="macro"))
    expected = average_precision_score(truth[fold == 1], probabilities[fold == 1], average="macro")
    assert result.mean_average_precisions[0, 1] == pytest.approx(expected)


def test_wrong_and_missing_labels_are_found_by_the_mean_of_the_repeats(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    true, fold = rng.random((120, 3)) < 0.5, np.arange(120) % 3
    true[[5, 50], 0] = [True, False]
    told = true.copy()
    told[[5, 50], 0] = [False, True]
    certainty = 0.8 + 0.1 * rng.random((120, 3))
    certainty[[5, 50], 0] = 0.9999
    sure = np.where(true, certainty, 1 - certainty)
    sure[:, 2] = rng.random(120)  # nobody tells the third class from the rest
    unsure = sure.copy()
    unsure[5, 0] = 1 - unsure[5, 0]  # the second repeat agrees with the label of this image
    images = rng.integers(0, 255, (120, 8, 8, 3), dtype=np.uint8)
    labels = [[name for name, has in zip("abc", row, strict=True) if has] for row in told]
    dataset = Dataset.from_arrays(images, labels)
    result = score_labels(dataset, Answered.of(dataset), [sure], [fold], {})
    assert {row[0]: row[2:4] for row in result.suspects} == {
        dataset.samples[5].path: ("a", "add"),
        dataset.samples[50].path: ("a", "remove"),
    }
    assert (
        result.suspects[0][1] == dataset.samples[[s.path for s in dataset.samples].index(result.suspects[0][0])].label
    )
    assert "does not clearly tell c from the rest" in result.withheld
    assert [
        row[0] for row in score_labels(dataset, Answered.of(dataset), [sure, unsure], [fold, fold], {}).suspects
    ] == [dataset.samples[50].path]
    result.write(tmp_path)
    rows = csv_rows(tmp_path / "label_errors.csv")
    assert [(row["path"], row["class"], row["suggestion"]) for row in rows] == [
        (s[0], s[2], s[3]) for s in result.suspects
    ]
    written = json.loads((tmp_path / "crossval.json").read_text())
    assert [row["probability"] for row in written["label_errors"]] == [s[4] for s in result.suspects]


def test_a_class_in_one_image_is_refused() -> None:
    images = np.random.default_rng(0).integers(0, 255, (8, 16, 16, 3), dtype=np.uint8)
    data = Dataset.from_arrays(images, [["a", "b"], ["a"], [], ["a"], ["c"], ["c"], ["a", "c"], []])
    with pytest.raises(DataError, match=r"fewer than 2 images .*: b\."):
        regraft.cross_validate(data, 2, config=SMALL)


def test_images_without_labels_are_compared_in_each_fold(several_labels: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    (tmp_path / "new").mkdir()
    for number in range(12):
        picture = picture_of_some([color for color in COLORS if rng.random() < 0.45], rng)
        Image.fromarray(picture).save(tmp_path / "new" / f"{number}.png")
    result = regraft.cross_validate(several_labels, 2, config=SMALL, unlabelled=tmp_path / "new")
    plain = regraft.cross_validate(several_labels, 2, config=SMALL)
    assert isinstance(result, MultilabelCrossValidation)
    assert isinstance(plain, MultilabelCrossValidation)
    assert result.unlabeled is not None
    assert (result.unlabeled["compared"], result.unlabeled["folds"]) == (12, 2)
    assert result.unlabeled["mean_average_precision_without"] == plain.evaluation.mean_average_precision
    assert result.to_json()["unlabelled"] == result.unlabeled
    assert (result.unlabeled["folds_used"] == 0) == (
        result.evaluation.mean_average_precision == plain.evaluation.mean_average_precision
    )
    assert plain.unlabeled is None


def test_the_command_prints_the_scores(several_labels: Path) -> None:
    words = ["crossval", str(several_labels), "-k", "2", "--task", "multilabel", "--set", "model.image_size=32"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert "mAP by fold, repeat 1" in done.output
    assert "thresholds of the other folds" in done.output
