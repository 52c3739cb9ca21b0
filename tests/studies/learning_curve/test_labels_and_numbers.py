"""Learning curves where an image has any number of labels, or a number."""

from __future__ import annotations

import csv
import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import average_precision_score, f1_score, mean_absolute_error, r2_score
from typer.testing import CliRunner

import regraft
from regraft.cli import app
from regraft.config import load_config
from regraft.data.dataset import Dataset
from regraft.errors import DataError, UsageError
from regraft.studies.label_cross_validation import answers_out_of_fold
from regraft.studies.learning_curve.label_curve import MultilabelLearningCurve, fit_label_curves
from regraft.studies.learning_curve.number_curve import NumberLearningCurve, fit_number_curves
from regraft.studies.learning_curve.subsets import predict_by_subsets, spread_subsets
from regraft.training.callbacks import NullReporter

SHARES = (0.125, 0.25, 0.5, 1.0)
FEATURES = np.random.default_rng(0).normal(size=(160, 12)).astype(np.float32)
FOLD, GROUPS = np.arange(160) % 5, np.arange(160)


def test_spread_subsets_are_nested_and_cover_the_range() -> None:
    for seed in range(10):
        rng = np.random.default_rng(seed)
        groups = rng.integers(0, 120, 300)
        key = rng.normal(size=120)[groups]
        subsets = spread_subsets(key, groups, SHARES, rng)
        assert subsets[-1].all()
        for small, large in pairwise(subsets):
            assert (large | ~small).all()
        for group in np.unique(groups):
            assert len(np.unique(subsets[:, groups == group], axis=1).T) == 1
        _, first = np.unique(groups, return_index=True)
        ranks, chosen = np.argsort(np.argsort(key[first])), subsets[:, first]
        for share, of_group in zip(SHARES, chosen, strict=True):
            assert abs(of_group.sum() - share * len(first)) <= 2
            assert np.diff(np.sort(ranks[of_group])).max() <= 2 / share


def test_curves_of_labels_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(1)
    scores = FEATURES[:, :3] + 0.7 * rng.normal(size=(160, 3))
    truth = np.column_stack([scores[:, 0] > 0, scores[:, 1] > 0.8, rng.random(160) < 0.4])
    predictions = predict_by_subsets(
        torch.from_numpy(FEATURES), truth.astype(np.float32), GROUPS, [FOLD], SHARES, NullReporter(),
        classes=3, halves=False, task="multilabel",
    )  # fmt: skip
    precision, f1, rows = fit_label_curves(predictions, truth, GROUPS, [FOLD], ["a", "b", "chance"])
    for level, probabilities in enumerate(predictions.predicted[0]):
        expected = average_precision_score(truth, probabilities, average=None)
        assert precision.measured[level].value == pytest.approx(expected.mean())
        assert [row.average_precision.measured[level].value for row in rows] == pytest.approx(expected[:2])
        said = answers_out_of_fold(truth, probabilities, FOLD)
        assert f1.measured[level].value == pytest.approx(f1_score(truth, said, average="macro"), abs=1e-6)
    assert [row.name for row in rows] == ["a", "b"]  # the third is noise
    assert precision.measured[-1].value > precision.measured[0].value
    assert precision.sizes == pytest.approx([16, 32, 64, 128])
    assert rows[0].average_precision.sizes[-1] == pytest.approx(0.8 * truth[:, 0].sum())
    assert all(0 <= point.low <= point.value <= point.high <= 1 for point in precision.extrapolated)


def test_curves_of_numbers_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(1)
    numbers = 50 + 10 * FEATURES[:, 0] + 5 * FEATURES[:, 1] + 4 * rng.normal(size=160)
    standard = ((numbers - numbers.mean()) / numbers.std()).astype(np.float32)[:, None]
    predictions = predict_by_subsets(
        torch.from_numpy(FEATURES), standard, GROUPS, [FOLD], SHARES, NullReporter(),
        classes=1, halves=False, task="regression",
    )  # fmt: skip
    r2, mae, at_chance = fit_number_curves(predictions, numbers, GROUPS)
    assert at_chance == ""
    for level, predicted in enumerate(predictions.predicted[0]):
        values = predicted[:, 0] * numbers.std() + numbers.mean()
        assert r2.measured[level].value == pytest.approx(r2_score(numbers, values), abs=1e-4)
        assert mae.measured[level].value == pytest.approx(mean_absolute_error(numbers, values), rel=1e-4)
    for curve in (r2, mae):
        assert all(point.low <= point.value <= point.high for point in (*curve.measured, *curve.extrapolated))
    assert mae.extrapolated[1].value < mae.measured[0].value
    assert r2.extrapolated[1].value <= 1
    noise = rng.normal(size=160)
    assert "not clearly better than predicting the mean" in fit_number_curves(predictions, noise, GROUPS)[2]


def test_the_command_has_the_curve_of_several_labels(several_labels: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ["learning-curve", str(several_labels), "--task", "multilabel", "--set", "model.image_size=32"]
    done = CliRunner().invoke(app, [*words, "--repeats", "1", "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert "    images   mAP   (95 %)" in done.output
    assert "Twice the images: " in done.output
    value = json.loads((out / "learning_curve.json").read_text())
    assert (value["task"], value["images"], value["folds"], value["repeats"]) == ("multilabel", 80, 5, 1)
    assert [point["images"] for point in value["mean_average_precision"]["extrapolated"]] == [80, 160, 320]
    with (out / "learning_curve.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["score"] for row in rows} >= {"mean_average_precision", "macro_f1", "average_precision"}
    with Image.open(out / "learning_curve.png") as image:
        assert image.size[0] == 2100
    refused = CliRunner().invoke(app, [*words, "--each"])
    assert isinstance(refused.exception, UsageError)


def test_numbers_have_a_curve(numbers_manifest: Path, tmp_path: Path) -> None:
    config = load_config(overrides={"model.image_size": 32, "data.task": "regression"})
    curve = regraft.learning_curve(numbers_manifest, config=config, repeats=1, out=tmp_path / "out")
    assert isinstance(curve, NumberLearningCurve)
    assert curve.r2.measured[-1].value > 0.3
    stored = json.loads((tmp_path / "out/learning_curve.json").read_text())
    assert stored["quantity"] == curve.quantity
    assert stored["mae"]["measured"][-1]["value"] == curve.mae.measured[-1].value
    assert repr(curve).startswith("NumberLearningCurve(80 images, R2 0.")
    with pytest.raises(UsageError, match="the task of the data is regression"):
        regraft.learning_curve(numbers_manifest, config=config, each=True)


def test_labels_that_no_head_knows_are_not_extrapolated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("regraft.studies.learning_curve.label_curve.doubtable_classes", lambda *_: [])
    rng = np.random.default_rng(2)
    images = rng.integers(0, 255, (40, 16, 16, 3), dtype=np.uint8)
    labels = [[name for name in "ab" if rng.random() < 0.5] for _ in range(40)]
    config = load_config(overrides={"model.image_size": 32})
    curve = regraft.learning_curve(Dataset.from_arrays(images, labels), config=config, repeats=1, out=tmp_path / "out")
    assert isinstance(curve, MultilabelLearningCurve)
    assert curve.at_chance == ("a", "b")
    assert "extrapolated" not in (tmp_path / "out/learning_curve.csv").read_text()
    assert (tmp_path / "out/learning_curve.png").exists()


def test_too_few_images_are_refused() -> None:
    images = np.random.default_rng(0).integers(0, 255, (20, 16, 16, 3), dtype=np.uint8)
    labels = [["a"] if number < 10 else [] for number in range(16)] + [["b"]] * 4
    config = load_config(overrides={"model.image_size": 32})
    with pytest.raises(DataError, match=r"fewer than 8 images, or others that can be divided: b \(4\)"):
        regraft.learning_curve(Dataset.from_arrays(images, labels), config=config)
    with pytest.raises(DataError, match="20 images that can be divided; expected at least 32"):
        regraft.learning_curve(Dataset.from_arrays(images, list(range(20)), task="regression"), config=config)
