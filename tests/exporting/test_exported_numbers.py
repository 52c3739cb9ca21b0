"""Every export of a run that gives an image a number gives the same number, with its interval."""

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
from regraft.errors import ExportError, UsageError
from regraft.evaluation.regression.metrics import RegressionEvaluation
from regraft.exporting.export import export
from regraft.exporting.exported_model import ExportedModel
from regraft.exporting.formats import FORMATS
from regraft.exporting.parity import compare_predictions
from regraft.exporting.verify import verify
from regraft.runs.evaluate import evaluate
from regraft.runs.predict import predict
from regraft.runs.run import Run
from regraft.runs.train import train_from


@pytest.fixture(scope="module")
def small_run(numbers_manifest: Path, tmp_path_factory: pytest.TempPathFactory, fast_settings: dict[str, Any]) -> Run:
    """A run of a small convolutional network."""
    settings = {**fast_settings, "data.task": "regression", "model.backbone": "cnn", "training.finetune_epochs": 0}
    return train_from(numbers_manifest, load_config(overrides=settings), tmp_path_factory.mktemp("numbers") / "run")


@pytest.fixture(scope="module")
def exports(small_run: Run) -> dict[str, Path]:
    """All formats in float32, by the command."""
    done = regraft("export", small_run.path, "--to", ",".join(FORMATS))
    assert done.returncode == 0, done.stderr
    assert "same number" in done.stdout
    return {name: small_run.path / "exports" / name for name in FORMATS}


@pytest.mark.parametrize("name", list(FORMATS))
def test_an_export_gives_the_number_of_the_run(
    name: str, small_run: Run, exports: dict[str, Path], numbers_manifest: Path
) -> None:
    trust = FORMATS[name].runs_code
    parity = json.loads((exports[name] / "parity.json").read_text())
    assert parity["agreement"] == 1
    assert parity["largest_difference"] < 1e-4
    assert parity["r2"] == pytest.approx(parity["model_r2"], abs=1e-3)
    assert verify(exports[name], trust=trust).agreement == 1
    model = ExportedModel(exports[name], trust=trust)
    assert (model.task, model.half_width) == ("regression", small_run.classifier.half_width)
    images = sorted(numbers_manifest.parent.glob("*.png"))[:8]
    for ours, theirs in zip(predict(model, images), predict(small_run, images), strict=True):
        assert ours.value == pytest.approx(theirs.value, abs=1e-2)
        assert ours.interval == pytest.approx(theirs.interval, abs=1e-2)


def test_an_export_is_predicted_and_evaluated_by_commands(
    small_run: Run, exports: dict[str, Path], numbers_manifest: Path
) -> None:
    image = numbers_manifest.parent / "01.png"
    (expected,) = small_run.predict(image)
    done = regraft("predict", exports["onnx"], image, "--json")
    assert json.loads(done.stdout)["value"] == pytest.approx(expected.value, abs=1e-2)
    ours = evaluate(ExportedModel(exports["onnx"]), numbers_manifest)
    assert isinstance(ours, RegressionEvaluation)
    theirs = evaluate(small_run, numbers_manifest)
    assert isinstance(theirs, RegressionEvaluation)
    assert ours.mae == pytest.approx(theirs.mae, abs=1e-2)
    script = subprocess.run(
        [sys.executable, exports["onnx"] / "predict.py", image], capture_output=True, text=True, check=True
    )
    name, value, low, _, high = script.stdout.split()[1:]
    assert name == "brightness"
    assert expected.interval is not None
    assert [float(value), float(low), float(high)] == pytest.approx([expected.value, *expected.interval], abs=2e-2)
    assert "half_width" in (exports["onnx"] / "README.md").read_text()


def test_a_changed_graph_is_found(exports: dict[str, Path], tmp_path: Path) -> None:
    copy = Path(shutil.copytree(exports["onnx"], tmp_path / "copy"))
    rows = json.loads((copy / "golden" / "expected.json").read_text())
    assert len({row["label"] for row in rows}) > 1
    for row in rows:
        row["probabilities"] = [row["probabilities"][0] + 1.0]
        row["label"] = f"{row['probabilities'][0]:.6g}"
    (copy / "golden" / "expected.json").write_text(json.dumps(rows))
    with pytest.raises(ExportError, match="standard deviations"):
        verify(copy)


def test_numbers_are_compared_in_standard_deviations() -> None:
    truth = np.array([1000.0, 2000, 3000])
    model = truth[:, None] + 10.0
    parity = compare_predictions(["a", "b", "c"], truth, model, model + 0.05, "fp32", deviation=float(truth.std()))
    assert parity.largest_difference == pytest.approx(0.05 / truth.std())
    assert parity.exceeded_limits == []
    worse = compare_predictions(["a", "b", "c"], truth, model, model + 50, "fp16", deviation=float(truth.std()))
    assert len(worse.exceeded_limits) == 2
    assert worse.differing == ("a", "b", "c")


def test_maps_are_refused(small_run: Run) -> None:
    with pytest.raises(UsageError, match="maps are for classes"):
        export(small_run, "onnx", with_maps=True)
