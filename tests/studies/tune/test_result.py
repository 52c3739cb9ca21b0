from __future__ import annotations

from pathlib import Path

import pytest

from regraft.config import Config
from regraft.studies.tune.result import TrialRecord, TrialResult, TuneResult


def result(tmp_path: Path, best: int) -> TuneResult:
    records = tuple(
        TrialRecord(number, {}, "complete", 0.5, 0.5, 0.9, 0.9, seconds=30, steps={"decode": seconds, "prefix": 1.0})
        for number, seconds in enumerate((9.0, 1.0, 2.0))
    )
    finalists = tuple(
        TrialResult(record, Config(), losses)
        for record, losses in zip(records, ((1.0, 2.0), (0.5, 1.7), (9.0, 9.0)), strict=True)
    )
    return TuneResult(tmp_path, "loss", records, finalists, finalists[best], {}, None, {})


def test_the_gain_is_the_mean_difference_to_the_base_with_its_standard_error(tmp_path: Path) -> None:
    assert result(tmp_path, 0).gain is None
    assert result(tmp_path, 1).gain == (pytest.approx(0.4), pytest.approx(0.1))


def test_speeds_are_those_of_the_trials_that_trained(tmp_path: Path) -> None:
    tuned = result(tmp_path, 1)
    assert tuned.trials_per_minute == 2
    assert tuned.frozen_seconds == (10.0, 2.5)
    assert "3 trials" in repr(tuned)
    assert "\n" not in repr(tuned)
