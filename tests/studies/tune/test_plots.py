from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from regraft.studies.tune.plots import plot_history, plot_importance
from regraft.studies.tune.result import TrialRecord
from regraft.studies.tune.study import Study, quiet_optuna


def test_plots_are_drawn_with_failed_and_pruned_trials(tmp_path: Path) -> None:
    with quiet_optuna():
        study = Study(tmp_path, 0, {"training.finetune_lr": 0.5}, {})
        for number in range(14):
            trial = study.ask()
            value = trial.suggest_float("training.finetune_lr", 0, 1) + trial.suggest_float("b", 0, 1) / 4
            states = {3: "failed", 5: "pruned"}
            state: Any = states.get(number, "complete")
            study.tell(trial, TrialRecord(number, trial.params, state, value=value if state == "complete" else None))
        plot_history(study.optuna, [study.records[0]], "loss", tmp_path / "a.png")
        plot_history(study.optuna, [], "macro_f1", tmp_path / "b.png")
        importance = study.importance()
        plot_importance(study.optuna, study.evaluator, tmp_path / "c.png")
    assert importance is not None
    assert list(importance) == ["training.finetune_lr", "b"]
    assert sum(importance.values()) == pytest.approx(1)
    assert all((tmp_path / name).stat().st_size > 5_000 for name in ("a.png", "b.png", "c.png"))
