from __future__ import annotations

from pathlib import Path

import pytest

from regraft.config import Config
from regraft.studies.tune.result import TrialRecord, TrialResult
from regraft.studies.tune.study import Study, quiet_optuna, read_settings


def test_an_interrupted_trial_is_drawn_again(tmp_path: Path) -> None:
    with quiet_optuna():
        study = Study(tmp_path, 0, {"a": 0.5}, {"metric": "loss"})
        first = study.ask()
        assert first.suggest_float("a", 0, 1) == 0.5
        study.tell(first, TrialRecord(0, first.params, "complete", value=1.0))
        interrupted = study.ask()
        value = interrupted.suggest_float("a", 0, 1)
        # A kill between the record and the end of the trial.
        interrupted.set_user_attr("record", {"number": 1, "params": interrupted.params, "state": "complete"})
        again = Study(tmp_path, 0, {"a": 0.5}, {"metric": "accuracy"})
        assert [record.number for record in again.records] == [0]
        assert again.ask().suggest_float("a", 0, 1) == value
        assert again.importance() is None
        assert read_settings(tmp_path) == {"metric": "loss"}


def test_finalists_are_stored_in_the_study(tmp_path: Path) -> None:
    finalists = [
        TrialResult(TrialRecord(number, {"a": 1}, "complete", value=0.1), Config(), (0.1, 0.2)) for number in (11, 2)
    ]
    with quiet_optuna():
        study = Study(tmp_path, 0, {"a": 0.5}, {})
        for finalist in finalists:
            study.add_finalist(finalist)
        assert Study(tmp_path, 0, {"a": 0.5}, {}).finalists == finalists[::-1]


def test_optuna_is_silent_and_its_verbosity_is_restored(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    import optuna

    before = optuna.logging.get_verbosity()
    with quiet_optuna():
        Study(tmp_path, 0, {"a": 0.5}, {})
    assert optuna.logging.get_verbosity() == before
    assert capfd.readouterr() == ("", "")
