"""Images with a number: from a manifest to a run that predicts it with an interval."""

from __future__ import annotations

import csv
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from regraft.config import load_config
from regraft.config.presets import for_task
from regraft.data.dataset import Dataset
from regraft.data.labels import number_text
from regraft.data.scan import scan
from regraft.data.split import split
from regraft.data.strings import Names
from regraft.errors import DataError, UsageError
from regraft.evaluation.regression.metrics import RegressionEvaluation
from regraft.models.classifier import build
from regraft.models.serialization import load_classifier
from regraft.runs.evaluate import evaluate
from regraft.runs.predict import predict
from regraft.runs.run import Run
from regraft.runs.train import train_from
from regraft.studies.attribution_audit import audit_attribution
from regraft.training.trainer import train


def test_a_manifest_has_numbers(numbers_manifest: Path) -> None:
    dataset = scan(numbers_manifest, task="regression")
    assert (dataset.task, dataset.classes) == ("regression", ("brightness",))
    assert dataset.targets.dtype == np.float64
    assert dataset.targets.shape == (80, 1)
    assert np.ptp(dataset.numbers) > 50
    assert dataset.counts() == {"brightness": 80}


def test_parts_have_the_same_spread(numbers_manifest: Path) -> None:
    parts = split(scan(numbers_manifest, task="regression"), train=0.5, val=0.25, test=0.25)
    means = [parts[part].numbers.mean() for part in parts]
    assert np.ptp(means) < 0.1 * np.ptp(parts.dataset.numbers)
    assert parts.train.samples[0].label in {f"{number:g}" for number in parts.dataset.numbers}


def test_the_run_predicts_numbers_with_intervals(numbers_run: Run, numbers_manifest: Path) -> None:
    evaluation = evaluate(numbers_run)
    assert isinstance(evaluation, RegressionEvaluation)
    assert evaluation.r2 is not None
    assert evaluation.r2 > 0.6
    metrics = json.loads((numbers_run.path / "metrics.json").read_text())
    assert metrics["test"]["mae"] == pytest.approx(evaluation.mae)
    assert metrics["calibration"]["half_width"] == numbers_run.classifier.half_width
    (prediction,) = predict(numbers_run.path, numbers_manifest.parent / "00.png")
    assert prediction.value is not None
    assert prediction.interval == pytest.approx(
        (prediction.value - numbers_run.classifier.half_width, prediction.value + numbers_run.classifier.half_width)
    )
    assert prediction.label == f"{prediction.value:.4g}"


def test_the_saved_model_gives_the_stored_predictions(numbers_run: Run, numbers_manifest: Path) -> None:
    stored = numbers_run.number_predictions
    again = predict(numbers_run.path, [manifest_path(numbers_manifest, name) for name in stored.ids])
    assert np.allclose([one.value for one in again], stored.values, atol=1e-3)
    with (numbers_run.path / "predictions.csv").open() as file:
        row = next(csv.DictReader(file))
    assert float(row["high"]) - float(row["low"]) == pytest.approx(2 * stored.half_width)


def manifest_path(manifest: Path, name: str) -> Path:
    return manifest.parent / name


def test_a_stored_run_is_evaluated_on_data(numbers_run: Run, numbers_manifest: Path, squares_folder: Path) -> None:
    evaluation = evaluate(numbers_run.path, numbers_manifest)
    assert evaluation.count == 80
    assert evaluation.overlap is not None
    with pytest.raises(UsageError, match="a number"):
        _ = numbers_run.predictions
    with pytest.raises(DataError, match="no numbers"):
        evaluate(numbers_run.path, squares_folder)


def test_history_has_losses_and_no_accuracy(numbers_run: Run) -> None:
    (row,) = numbers_run.history
    assert row["val_accuracy"] is None
    assert row["val_loss"] < 1
    assert all(fit["val_accuracy"] is None for fit in numbers_run.head_path)


@pytest.mark.parametrize("shift", [0.0, 1e4])
def test_training_does_not_depend_on_the_unit(numbers_dataset: Dataset, shift: float) -> None:
    factor = 1000.0
    texts = [number_text(str(factor * number + shift)) for number in numbers_dataset.numbers.tolist()]
    moved = numbers_dataset.with_samples(numbers_dataset.table.with_labels(Names.of(texts)))
    values = []
    for dataset in (numbers_dataset, moved):
        parts = split(dataset, train=0.5, val=0.25, test=0.25)
        model = build("efficientnet_lite0", classes=dataset.classes, task="regression", image_size=32)
        train(model, parts, finetune_epochs=0)
        pixels = torch.from_numpy(
            np.stack([model.preprocessing(dataset.source(sample)) for sample in parts.test.samples])
        ).permute(0, 3, 1, 2)
        with torch.inference_mode():
            values.append(model(pixels)[:, 0].numpy())
    assert np.allclose(values[1], factor * values[0] + shift, rtol=1e-3, atol=factor * 0.05)


def test_a_head_answers_the_same_in_other_units(numbers_run: Run) -> None:
    model = load_classifier(numbers_run.path)
    features = torch.randn(5, model.head.features)
    before = model.head.answer(model.head(features))
    model.head.use_units(12.0, 3.0)
    assert torch.allclose(model.head.answer(model.head(features)), before, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("training.class_weights", "balanced"),
        ("model.backbone", "auto"),
        ("model.backbone", "efficientnet_lite0,lcnet_100"),
        ("training.monitor", "val_macro_f1"),
        ("data.unlabelled", "."),
        ("training.loss", "cross_entropy"),
        ("training.output_activation", "softmax"),
    ],
)
def test_settings_of_classes_are_refused(
    numbers_manifest: Path, fast_settings: dict[str, Any], tmp_path: Path, setting: str, value: str
) -> None:
    config = load_config(overrides={**fast_settings, "data.task": "regression", setting: value})
    with pytest.raises(UsageError, match="regression"):
        train_from(numbers_manifest, config, tmp_path / "run")


def test_numbers_are_asked_for(numbers_manifest: Path) -> None:
    with pytest.raises(DataError, match="--task regression"):
        scan(numbers_manifest)
    dataset = scan(numbers_manifest, task="classification")
    assert dataset.task == "classification"


def test_labels_that_are_no_numbers_are_listed(tmp_path: Path, squares_folder: Path) -> None:
    with pytest.raises(DataError, match=r"blue/00.png: 'blue'; expected a finite number"):
        scan(squares_folder, task="regression")


def test_folders_may_be_numbers(tmp_path: Path, squares_folder: Path) -> None:
    for number, color in (("1.50", "blue"), ("3", "red")):
        (tmp_path / number).mkdir()
        for file in sorted((squares_folder / color).glob("0*.png")):
            (tmp_path / number / file.name).write_bytes(file.read_bytes())
    dataset = scan(tmp_path, task="regression")
    assert set(dataset.numbers.tolist()) == {1.5, 3.0}
    assert dataset.classes == ("value",)
    assert scan(tmp_path).task == "classification"


def test_an_evaluation_has_plain_values(numbers_run: Run) -> None:
    evaluation = numbers_run.evaluate_numbers("val")
    assert set(evaluation.to_json()) == {"task", *asdict(evaluation)} - {"counted", "subgroups"}  # which few have


def test_an_audit_of_numbers_is_refused(numbers_run: Run, numbers_manifest: Path) -> None:
    with pytest.raises(UsageError, match="this one gives numbers"):
        audit_attribution(numbers_run, numbers_manifest)


def test_the_keras_preset_has_no_softmax_for_numbers() -> None:
    options = load_config(overrides={"run.preset": "keras"}).training
    assert for_task(options, "keras", "regression").output_activation == "auto"
    assert for_task(options, "keras", "classification").output_activation == "softmax"
