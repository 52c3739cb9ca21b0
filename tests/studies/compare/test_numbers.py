"""Models that give an image a number are compared by the mean absolute error, of which the lowest is the best."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import regraft
from regraft.config import load_config
from regraft.errors import UsageError
from regraft.evaluation.regression.comparison import paired_error_difference
from regraft.runs import subprocess_train
from regraft.runs.report import write_report
from regraft.runs.run import Run
from regraft.runs.train import train_from
from regraft.studies.compare import compare as module

QUICK = {"model.image_size": 32, "training.finetune_epochs": 0, "data.val": 0.25, "data.test": 0.25,
         "data.task": "regression"}  # fmt: skip


@pytest.fixture(scope="module")
def runs(numbers_manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    """A pretrained head and a plain network, on the same split."""
    folder = tmp_path_factory.mktemp("runs")
    network = {"model.backbone": "ann", "training.finetune_epochs": 2, "training.finetune_from": "all"}
    return [
        train_from(numbers_manifest, load_config(overrides=QUICK | given), folder / name)
        for name, given in (("head", {}), ("ann", network))
    ]


@pytest.fixture
def quick_timing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Predictions are timed in this process, and not for long."""
    monkeypatch.setattr(subprocess_train, "_MIN_SECONDS", 0.02)
    monkeypatch.setattr(module, "time_in_subprocess", lambda run, reporter: subprocess_train.measure_timing(Run(run)))


@pytest.mark.usefixtures("quick_timing")
def test_the_lowest_error_is_the_best(runs: list[Run], tmp_path: Path) -> None:
    comparison = regraft.compare(runs=runs, out=tmp_path / "out")
    errors = [Run(model.run).evaluate_numbers("test").mae for model in comparison.models]
    assert errors == sorted(errors)
    assert [model.score for model in comparison.models] == errors
    best = comparison.models[0]
    assert best.test_accuracy is None
    assert best.test_macro_f1 is None
    assert best.test_r2 == Run(best.run).evaluate_numbers("test").r2
    assert comparison.conclusion[0].startswith(f"{best.name} has the lowest test MAE: {best.score:.4g} (95 % interval ")
    assert all(pair.to_json()["mae"] < 0 for pair in comparison.pairs)
    assert not comparison.untested
    written = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert written["models"][0]["test_mae"] == best.score
    html = comparison._repr_html_()
    assert "Test MAE" in html
    assert "accuracy" not in html.lower()


@pytest.mark.usefixtures("quick_timing")
def test_a_report_shows_the_comparison(runs: list[Run]) -> None:
    regraft.compare(runs=runs, out=runs[0].path.parent / "out")
    text = (runs[0].path.parent / "out" / "comparison.json").read_text()
    target = runs[0].path.parent / "comparison.json"
    target.write_text(text)
    try:
        page = write_report(runs[0]).read_text()
    finally:
        target.unlink()
    assert "Test MAE" in page


def test_runs_of_different_tasks_are_refused(runs: list[Run], squares_run: Run, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected one task"):
        regraft.compare(runs=[runs[0], squares_run], out=tmp_path / "out")


def test_the_difference_of_errors_is_that_of_the_same_images(runs: list[Run]) -> None:
    one, other = (run.number_predictions.part("test") for run in runs)
    mixed = other.take(np.random.default_rng(0).permutation(len(other)))
    difference = paired_error_difference(one, mixed)
    assert difference.mae == pytest.approx(np.abs(one.residuals).mean() - np.abs(other.residuals).mean())
    low, high = difference.interval
    assert low < difference.mae < high
    assert paired_error_difference(one, one).p == 1.0
    back = paired_error_difference(mixed, one)
    assert back.mae == pytest.approx(-difference.mae)
