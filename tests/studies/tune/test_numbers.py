"""A search for settings where an image has a number: the lowest error is the best."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import regraft
from regraft.cli import app
from regraft.config import load_config
from regraft.errors import UsageError

# In float32, as the finished run: a trial is judged in the precision of its training.
QUICK = load_config(overrides={"model.image_size": 32, "training.finetune_epochs": 0, "training.precision": "off",
                               "data.task": "regression", "data.val": 0.25, "data.test": 0.25})  # fmt: skip


def test_the_mean_absolute_error_is_minimized(numbers_manifest: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = regraft.tune(
        numbers_manifest, trials=3, finalists=0, metric="mae", config=QUICK, out=out, fixed=["model.head_widths"]
    )
    errors = [record.mae for record in result.trials]
    assert all(record.value == record.mae for record in result.trials)
    assert result.best.record.mae == min(error for error in errors if error is not None)
    assert result.trials[0].accuracy is None
    assert result.trials[0].macro_f1 is None
    assert "MAE" in repr(result)
    assert result.run is not None
    # What a trial is judged by is what its run then has.
    val = result.run.evaluate_numbers("val")
    assert result.best.record.mae == pytest.approx(val.mae, rel=0.02)
    assert result.best.record.loss is not None
    spread = result.run.number_predictions.targets.std()
    assert result.best.record.loss == pytest.approx((val.rmse / spread) ** 2, rel=0.5)
    written = json.loads((out / "tune.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert written["test"]["mae"] == result.run.metrics["test"]["mae"]
    assert np.isfinite([record.loss for record in result.trials]).all()
    # The finished search is resumed with its metric, and its best stays the one with the lowest error.
    printed = CliRunner().invoke(app, ["tune", "--resume", str(out), "--trials", "3", "--finalists", "0"])
    assert printed.exit_code == 0, printed.output
    assert "Test mean absolute error" in printed.output
    assert "MAE" in printed.output
    assert "accuracy" not in printed.output
    assert f"Trial {result.best.record.number} changes" in printed.output or not result.best.record.number


def test_a_metric_of_classes_is_refused(numbers_manifest: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="metric = accuracy, and the task of the data is regression"):
        regraft.tune(numbers_manifest, metric="accuracy", config=QUICK, out=tmp_path / "out")
