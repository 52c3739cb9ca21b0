"""Images with any number of classes: from a manifest to a run that says which each has."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from regraft.config import load_config
from regraft.data.scan import scan
from regraft.errors import UsageError
from regraft.runs.evaluate import evaluate
from regraft.runs.predict import predict
from regraft.runs.run import Run
from regraft.runs.train import train_from

COLORS = {"blue": (30, 60, 220), "green": (40, 200, 60), "red": (220, 40, 30)}


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images with squares of some of three colors, and a table of the colors."""
    folder, rng = tmp_path_factory.mktemp("several"), np.random.default_rng(0)
    rows = []
    for number in range(80):
        image = rng.integers(90, 160, (32, 32, 3))
        labels = [color for color in COLORS if rng.random() < 0.45]
        for color in labels:
            top, left = rng.integers(0, 20, 2)
            image[top : top + 12, left : left + 12] = COLORS[color]
        Image.fromarray(image.astype(np.uint8)).save(folder / f"{number:02d}.png")
        rows.append((f"{number:02d}.png", "|".join(labels)))
    with (folder / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "label"), *rows])
    return folder / "labels.csv"


@pytest.fixture(scope="module")
def run(manifest: Path, tmp_path_factory: pytest.TempPathFactory, fast_settings: dict[str, Any]) -> Run:
    """A run on these images, with an epoch of fine-tuning."""
    config = load_config(overrides={**fast_settings, "data.task": "multilabel"})
    return train_from(manifest, config, tmp_path_factory.mktemp("runs") / "several")


def test_a_manifest_has_any_number_of_labels(manifest: Path) -> None:
    dataset = scan(manifest, task="multilabel")
    assert dataset.classes == ("blue", "green", "red")
    assert dataset.task == "multilabel"
    assert dataset.indicators.sum(axis=1).min() == 0
    assert dataset.indicators.sum(axis=1).max() >= 2
    assert dataset.targets.dtype == np.float32
    assert list(dataset.counts().values()) == dataset.indicators.sum(axis=0).tolist()


def test_the_run_says_what_each_image_has(run: Run, manifest: Path) -> None:
    evaluation = run.evaluate_labels()
    assert evaluation.mean_average_precision > 0.8
    metrics = json.loads((run.path / "metrics.json").read_text())
    assert metrics["test"]["macro_f1"] == pytest.approx(evaluation.macro_f1)
    (prediction,) = predict(run.path, manifest.parent / "00.png")
    limits = dict(zip(prediction.classes, prediction.thresholds, strict=True))
    probabilities = dict(zip(prediction.classes, prediction.probabilities, strict=True))
    assert set(prediction.labels) == {name for name, p in probabilities.items() if p >= limits[name]}


def test_the_saved_model_gives_the_stored_predictions(run: Run, manifest: Path) -> None:
    stored = run.label_predictions
    again = predict(run.path, [manifest.parent / name for name in stored.ids])
    assert np.allclose([one.probabilities for one in again], stored.probabilities, atol=1e-5)
    assert [one.thresholds for one in again] == [tuple(stored.thresholds)] * len(stored)


def test_a_stored_run_is_evaluated_on_data(run: Run, manifest: Path) -> None:
    evaluation = evaluate(run.path, manifest)
    assert evaluation.count == 80
    with pytest.raises(UsageError, match="several labels"):
        _ = run.predictions
