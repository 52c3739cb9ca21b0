"""Every export of a run that gives an image any number of labels gives the same labels."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from terminal import regraft

from regraft.config import load_config
from regraft.errors import ExportError
from regraft.exporting.export import export
from regraft.exporting.exported_model import ExportedModel
from regraft.exporting.formats import FORMATS
from regraft.exporting.verify import verify
from regraft.runs.evaluate import evaluate
from regraft.runs.explain import explain
from regraft.runs.predict import predict
from regraft.runs.run import Run
from regraft.runs.train import train_from


@pytest.fixture(scope="module")
def labels_run(several_labels: Path, tmp_path_factory: pytest.TempPathFactory, fast_settings: dict[str, Any]) -> Run:
    """A run of a small convolutional network, whose input is no square."""
    settings = {
        **fast_settings, "data.task": "multilabel", "model.backbone": "cnn", "model.image_size": "48x32",
        "training.finetune_epochs": 0,
    }  # fmt: skip
    return train_from(several_labels, load_config(overrides=settings), tmp_path_factory.mktemp("labels") / "run")


@pytest.fixture(scope="module")
def exports(labels_run: Run) -> dict[str, Path]:
    """All formats in float32, by the command."""
    done = regraft("export", labels_run.path, "--to", ",".join(FORMATS))
    assert done.returncode == 0, done.stderr
    assert "same labels" in done.stdout
    assert "micro-F1 on val" in done.stdout
    return {name: labels_run.path / "exports" / name for name in FORMATS}


@pytest.mark.parametrize("name", list(FORMATS))
def test_an_export_gives_the_labels_of_the_run(
    name: str, labels_run: Run, exports: dict[str, Path], several_labels: Path
) -> None:
    trust = FORMATS[name].runs_code
    parity = json.loads((exports[name] / "parity.json").read_text())
    assert parity["agreement"] == 1
    assert parity["micro_f1"] == parity["model_micro_f1"]
    assert "accuracy" not in parity
    assert verify(exports[name], trust=trust).agreement == 1
    rows = json.loads((exports[name] / "golden" / "expected.json").read_text())
    assert len({tuple(row["labels"]) for row in rows}) > 1
    model = ExportedModel(exports[name], trust=trust)
    assert model.thresholds == labels_run.classifier.thresholds
    images = sorted(several_labels.parent.glob("*.png"))[:8]
    for ours, theirs in zip(predict(model, images), predict(labels_run, images), strict=True):
        np.testing.assert_allclose(ours.probabilities, theirs.probabilities, atol=1e-4)
        assert set(ours.labels) == set(theirs.labels)


def test_exports_have_the_height_and_width_of_the_run(exports: dict[str, Path]) -> None:
    for folder in exports.values():
        description = json.loads((folder / "export.json").read_text())
        assert description["input"]["shape"] == ["N", 48, 32, 3]
        assert "(N, 48, 32, 3)" in (folder / "README.md").read_text()
        model = ExportedModel(folder, trust=True)
        assert model.probabilities(np.zeros((2, 48, 32, 3), np.uint8)).shape == (2, 3)


def test_an_export_is_predicted_and_evaluated_by_commands(
    labels_run: Run, exports: dict[str, Path], several_labels: Path
) -> None:
    image = several_labels.parent / "01.png"
    (expected,) = labels_run.predict(image)
    done = regraft("predict", exports["onnx"], image, "--json")
    assert [row["label"] for row in json.loads(done.stdout)["labels"]] == list(expected.labels)
    done = regraft("predict", exports["onnx"], image, "--json", "--threshold", 0)
    assert len(json.loads(done.stdout)["labels"]) == 3
    ours = evaluate(ExportedModel(exports["onnx"]), several_labels)
    assert ours.to_json()["micro_f1"] == evaluate(labels_run, several_labels).to_json()["micro_f1"]
    script = subprocess.run(
        [sys.executable, exports["onnx"] / "predict.py", image], capture_output=True, text=True, check=True
    )
    said = ", ".join(f"{name} {expected.probabilities[expected.classes.index(name)]:.4f}" for name in expected.labels)
    assert script.stdout.startswith(f"{image} {said or 'none'}"[:-1])  # the last digit may differ
    assert "thresholds" in (exports["onnx"] / "README.md").read_text()


def test_int8_is_calibrated(labels_run: Run, tmp_path: Path) -> None:
    (result,) = export(labels_run, "onnx", precision="int8", out=tmp_path)
    assert result.parity.metric == "micro_f1"
    assert result.parity.score_difference >= -0.01


def test_a_changed_threshold_is_found(exports: dict[str, Path], tmp_path: Path) -> None:
    copy = Path(shutil.copytree(exports["onnx"], tmp_path / "copy"))
    file = copy / "export.json"
    description = json.loads(file.read_text())
    file.write_text(json.dumps(description | {"thresholds": [0.0] * 3}))
    with pytest.raises(ExportError, match="not those of the golden images"):
        verify(copy)
    file.write_text(json.dumps(description | {"thresholds": [0.5] * 2}))
    with pytest.raises(ExportError, match="2 thresholds"):
        verify(copy)


def test_maps_of_an_export_are_those_of_the_run(
    several_labels: Path, tmp_path: Path, fast_settings: dict[str, Any]
) -> None:
    settings = {
        **fast_settings, "data.task": "multilabel", "model.backbone": "test_efficientnet", "model.weights": "none",
        "model.image_size": 64, "training.finetune_epochs": 0,
    }  # fmt: skip
    run = train_from(several_labels, load_config(overrides=settings), tmp_path / "run")
    (result,) = export(run, "onnx", with_maps=True)
    images = sorted(several_labels.parent.glob("*.png"))[:6]
    for ours, theirs in zip(explain(ExportedModel(result.path), images), explain(run, images), strict=True):
        assert ours.targets == theirs.targets
        np.testing.assert_allclose(ours.heat, theirs.heat, atol=5e-3)
    assert "evidence[0, target], 0)" in (result.path / "README.md").read_text()
