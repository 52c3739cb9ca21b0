"""A search for settings where groups of pictures get one answer each, or where the classes have an order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import regraft
from regraft.cli import app
from regraft.config import load_config
from regraft.errors import UsageError

HEAD: dict[str, Any] = {"model.image_size": 32, "training.finetune_epochs": 0, "data.val": 0.3, "data.test": 0.3}


def test_trials_are_judged_by_groups_and_have_a_linear_head(lesions: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = CliRunner().invoke(app, [
        "tune", str(lesions), "--pool-by", "lesion", "--trials", "2", "--finalists", "0", "--image-size", "32",
        "--epochs", "0", "--set", "data.val=0.3", "--set", "data.test=0.3", "--set", "data.label_column=kind",
        "--out", str(out),
    ])  # fmt: skip
    assert done.exit_code == 0, done.output
    run = regraft.Run(out / "best")
    result = regraft.tune(out=out, trials=2, finalists=0)
    assert all(set(record.params) == {"training.label_smoothing"} for record in result.trials)
    count = run.metrics["groups"]["val"]["count"]
    best = result.best.record
    assert best.accuracy is not None
    assert best.accuracy * count == pytest.approx(round(best.accuracy * count))
    assert best.accuracy == pytest.approx(run.metrics["val"]["accuracy"])


def test_numbers_of_groups_are_searched_by_their_error(lesions: Path, tmp_path: Path) -> None:
    settings = HEAD | {"data.task": "regression", "data.label_column": "width", "data.pool_by": "lesion"}
    with pytest.raises(UsageError, match=r"no setting to search.*data\.pool_by"):
        regraft.tune(lesions, config=load_config(overrides=settings), out=tmp_path / "none")
    tuning = settings | {"training.finetune_epochs": 1, "training.views": 1, "training.finetune_from": "last"}
    result = regraft.tune(
        lesions, trials=1, finalists=0, metric="mae", config=load_config(overrides=tuning), out=tmp_path / "out"
    )
    assert result.run is not None
    assert result.best.record.mae == pytest.approx(result.run.evaluate_numbers("val").mae, rel=0.02)


def test_grades_are_searched_by_quadratic_kappa(grades: Path, tmp_path: Path) -> None:
    settings = HEAD | {"data.order": "none,mild,severe"}
    result = regraft.tune(
        grades, trials=2, finalists=0, metric="quadratic_kappa", config=load_config(overrides=settings),
        fixed=["model.head"], out=tmp_path / "out",
    )  # fmt: skip
    best = result.best.record
    assert result.run is not None
    assert best.quadratic_kappa == pytest.approx(result.run.metrics["val"]["ordinal"]["quadratic_kappa"])
    assert best.value == pytest.approx(1 - best.quadratic_kappa, abs=1e-4)
    assert "quadratic kappa" in best.describe()
    with pytest.raises(UsageError, match="metric = quadratic_kappa, and the task of the data is classification"):
        regraft.tune(grades, metric="quadratic_kappa", config=load_config(overrides=HEAD), out=tmp_path / "plain")
