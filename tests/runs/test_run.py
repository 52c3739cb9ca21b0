"""Opening the folder of a run."""

from __future__ import annotations

from pathlib import Path

import pytest

import regraft
from regraft.errors import RunError, UsageError


def test_history_has_numbers(squares_run: regraft.Run) -> None:
    rows = squares_run.history
    assert {row["phase"] for row in rows} == {"finetune"}
    assert [row["kept"] for row in rows].count(True) == (squares_run.metrics["model"]["finetuned_from"] is not None)
    assert [fit["chosen"] for fit in squares_run.head_path].count(True) == 1
    assert all(isinstance(row["train_loss"], float) and isinstance(row["epoch"], int) for row in rows)


def test_stored_predictions_give_the_metrics(squares_run: regraft.Run) -> None:
    assert squares_run.evaluate().accuracy == squares_run.metrics["test"]["accuracy"]
    assert squares_run.evaluate("val").to_json() == squares_run.metrics["val"]
    with pytest.raises(UsageError, match="to evaluate train, give the data"):
        squares_run.evaluate("train")


def test_a_missing_run_names_the_command_that_creates_one(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"does not exist.*regraft train DATA --out"):
        regraft.load(tmp_path / "none")
    with pytest.raises(RunError, match="regraft train DATA --out"):
        regraft.load(tmp_path)
