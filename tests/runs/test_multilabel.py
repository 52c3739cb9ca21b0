"""Images with any number of classes: from a manifest to a run that says which each has."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from run_documents import check_documents

from regraft.config import load_config, load_run_config
from regraft.data.scan import scan
from regraft.errors import DataError, UsageError
from regraft.runs.evaluate import evaluate
from regraft.runs.predict import predict
from regraft.runs.run import Run
from regraft.runs.train_from import train_from


def test_a_manifest_has_any_number_of_labels(several_labels: Path) -> None:
    dataset = scan(several_labels, task="multilabel")
    assert dataset.classes == ("blue", "green", "red")
    assert dataset.task == "multilabel"
    assert dataset.indicators.sum(axis=1).min() == 0
    assert dataset.indicators.sum(axis=1).max() >= 2
    assert dataset.targets.dtype == np.float32
    assert list(dataset.counts().values()) == dataset.indicators.sum(axis=0).tolist()


def test_labels_that_all_images_have_are_refused(several_labels: Path, tmp_path: Path) -> None:
    rows = "".join(f"{several_labels.parent}/{i:02d}.png,blue|red\n" for i in range(20))
    (tmp_path / "m.csv").write_text(f"path,label\n{rows}")
    with pytest.raises(DataError, match="Every training image has the same labels: blue, red"):
        train_from(tmp_path / "m.csv", load_config(None, ["training.cache_gb=0"]), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_run_says_what_each_image_has(several_run: Run, several_labels: Path) -> None:
    evaluation = several_run.evaluate_labels()
    assert evaluation.mean_average_precision > 0.8
    metrics = json.loads((several_run.path / "metrics.json").read_text())
    assert metrics["test"]["macro_f1"] == pytest.approx(evaluation.macro_f1)
    (prediction,) = predict(several_run.path, several_labels.parent / "00.png")
    limits = dict(zip(prediction.classes, prediction.thresholds, strict=True))
    probabilities = dict(zip(prediction.classes, prediction.probabilities, strict=True))
    assert set(prediction.labels) == {name for name, p in probabilities.items() if p >= limits[name]}


def test_the_documents_have_the_metrics_of_several_labels(several_run: Run, tmp_path: Path) -> None:
    assert "any number of the 3 classes above." in check_documents(several_run, tmp_path)["datasheet"]


def test_the_saved_model_gives_the_stored_predictions(several_run: Run, several_labels: Path) -> None:
    stored = several_run.label_predictions
    again = predict(several_run.path, [several_labels.parent / name for name in stored.ids])
    assert np.allclose([one.probabilities for one in again], stored.probabilities, atol=1e-5)
    assert [one.thresholds for one in again] == [tuple(stored.thresholds)] * len(stored)


def test_a_stored_run_is_evaluated_on_data(several_run: Run, several_labels: Path) -> None:
    evaluation = evaluate(several_run.path, several_labels)
    assert evaluation.count == 80
    with pytest.raises(UsageError, match="several labels"):
        _ = several_run.predictions


def test_the_run_keeps_what_its_data_was_taken_for(several_run: Run) -> None:
    assert load_run_config(several_run.path / "config.toml").data.task == "multilabel"
