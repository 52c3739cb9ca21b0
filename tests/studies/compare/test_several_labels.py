"""Models that give an image any number of classes are compared by mean average precision."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import regraft
from regraft.config import load_config
from regraft.errors import UsageError
from regraft.runs import subprocess_train
from regraft.runs.run import Run
from regraft.runs.train import train_from
from regraft.studies.compare import compare as module

QUICK = {"model.image_size": 32, "training.finetune_epochs": 0, "data.val": 0.25, "data.test": 0.25,
         "data.task": "multilabel"}  # fmt: skip


@pytest.fixture(scope="module")
def runs(several_labels: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    """A pretrained head, and one on random features, on the same split."""
    folder = tmp_path_factory.mktemp("runs")
    return [
        train_from(several_labels, load_config(overrides=QUICK | {"model.weights": weights}), folder / weights)
        for weights in ("auto", "none")
    ]


@pytest.fixture
def quick_timing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Predictions are timed in this process, and not for long."""
    monkeypatch.setattr(subprocess_train, "_MIN_SECONDS", 0.02)
    monkeypatch.setattr(module, "time_in_subprocess", lambda run, reporter: subprocess_train.measure_timing(Run(run)))


@pytest.mark.usefixtures("quick_timing")
def test_the_score_is_the_mean_average_precision(runs: list[Run], tmp_path: Path) -> None:
    comparison = regraft.compare(runs=runs, out=tmp_path / "out")
    best = comparison.models[0]
    assert best.name == "auto"
    assert best.test_accuracy is None
    assert best.score == pytest.approx(Run(best.run).evaluate_labels("test").mean_average_precision)
    (pair,) = comparison.pairs
    assert "mean_average_precision" in pair.to_json()
    text = (tmp_path / "out" / "comparison.md").read_text()
    assert f"auto has the highest test mAP: {best.score:.3f}" in text
    assert "accuracy" not in text
    assert json.loads((tmp_path / "out" / "comparison.json").read_text())["models"][0]["test_accuracy"] is None
    assert "Test mAP" in comparison._repr_html_()


@pytest.mark.usefixtures("quick_timing")
def test_runs_of_different_tasks_are_refused(runs: list[Run], squares_run: Run, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected one task"):
        regraft.compare(runs=[runs[0], squares_run], out=tmp_path / "out")
