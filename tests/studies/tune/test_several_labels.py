"""A search for settings where an image has any number of classes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

import regraft
from regraft.cli import app
from regraft.config import load_config
from regraft.errors import UsageError

QUICK = load_config(overrides={"model.image_size": 32, "model.weights": "none", "training.finetune_epochs": 0,
                               "data.task": "multilabel", "data.val": 0.25, "data.test": 0.25})  # fmt: skip


def test_the_mean_average_precision_is_optimized(several_labels: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = regraft.tune(
        several_labels, trials=2, finalists=0, metric="mean_average_precision", config=QUICK, out=out,
        fixed=["model.head_widths", "model.dropout"],
    )  # fmt: skip
    for record in result.trials:
        assert record.mean_average_precision is not None
        assert record.value == pytest.approx(1 - record.mean_average_precision, abs=1e-4)
        assert "training.label_smoothing" not in record.params
    assert result.run is not None
    assert result.run.task == "multilabel"
    assert json.loads((out / "tune.json").read_text())["test"]["macro_f1"] == result.run.metrics["test"]["macro_f1"]
    printed = CliRunner().invoke(app, ["tune", "--resume", str(out), "--trials", "2", "--finalists", "0"])
    assert printed.exit_code == 0, printed.output
    assert "Test mAP" in printed.output
    assert "accuracy" not in printed.output


@pytest.mark.parametrize(("task", "metric"), [("multilabel", "accuracy"), ("classification", "mean_average_precision")])
def test_a_metric_of_another_task_is_refused(
    several_labels: Path, squares_folder: Path, tmp_path: Path, task: str, metric: str
) -> None:
    config = QUICK.model_copy(update={"data": type(QUICK.data)(task=task, val=0.25, test=0.25)})  # type: ignore[arg-type]
    data = several_labels if task == "multilabel" else squares_folder
    with pytest.raises(UsageError, match=f"metric = {metric}, and the task of the data is {task}"):
        regraft.tune(data, metric=metric, config=config, out=tmp_path / "out")  # type: ignore[arg-type]
