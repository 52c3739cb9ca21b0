from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import regraft
from regraft.config import Config, load_config
from regraft.errors import RunError, TrainingError, UsageError
from regraft.runs.budget import RunPlan
from regraft.studies.tune import search as search_module
from regraft.studies.tune.result import TrialRecord, TrialResult
from regraft.training.callbacks import NullReporter


def trial_result(number: int, params: dict[str, Any], config: Config, loss: float, **values: Any) -> TrialResult:
    record = TrialRecord(number, params, "complete", loss, loss, 0.5, 0.5, steps={"decode": 0.0}, **values)
    return TrialResult(record, config, (loss, loss))


def test_failures_are_named_and_ctrl_c_keeps_the_result_so_far(
    squares_folder: Path, tmp_path: Path, base: Config, fixed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    messages: list[str] = []

    class Messages(NullReporter):
        def on_message(self, text: str) -> None:
            messages.append(text)

    def run_trial(number: int, params: dict[str, Any], config: Config, *_: Any, **__: Any) -> TrialResult:
        if number == 1:
            raise TrainingError("the loss is nan")
        if number == 3:
            raise KeyboardInterrupt
        return trial_result(number, params, config, 1 / (number + 1), cache_too_small=True)

    monkeypatch.setattr(search_module, "run_trial", run_trial)
    result = regraft.tune(squares_folder, trials=9, config=base, fixed=fixed, out=tmp_path / "a", reporter=Messages())
    assert [record.state for record in result.trials] == ["complete", "failed", "complete"]
    assert result.trials[1].message == "the loss is nan"
    assert result.stopped == "interrupted"
    assert result.run is None
    assert result.best.record.number == 2
    assert load_config(tmp_path / "a" / "best.toml").training.finetune_epochs == 3  # the short trial's own
    assert sum("is too small for this search" in text for text in messages) == 1


def test_a_search_without_a_complete_trial_says_why(
    squares_folder: Path, tmp_path: Path, base: Config, fixed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_trial(*_: Any, **__: Any) -> TrialResult:
        raise UsageError("CutMix cuts maps")

    monkeypatch.setattr(search_module, "run_trial", run_trial)
    with pytest.raises(RunError, match="None of 2 trials was completed; the first error: CutMix cuts maps"):
        regraft.tune(squares_folder, trials=2, config=base, fixed=fixed, out=tmp_path / "a")


def test_the_deadline_ends_the_search_within_a_trial(
    squares_folder: Path, tmp_path: Path, base: Config, fixed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_trial(
        number: int, params: dict[str, Any], config: Config, *_: Any, reporter: Any, **__: Any
    ) -> TrialResult:
        reporter.on_progress("finetune", 1, 2)
        time.sleep(0.2)
        return trial_result(number, params, config, 1.0)

    def plan(self: Any, first: TrialRecord) -> None:
        self.num_finalists, self.search_deadline, self.finalists_deadline = 3, time.monotonic() + 0.5, time.monotonic()

    monkeypatch.setattr(search_module, "run_trial", run_trial)
    monkeypatch.setattr(search_module.Search, "_plan", plan)
    result = regraft.tune(
        squares_folder, trials=1000, budget=60, config=base, fixed=fixed, out=tmp_path / "a", train=False
    )
    assert result.stopped == "time"
    assert 1 <= len(result.trials) < 10


def test_time_is_kept_to_train_the_best_short_trial_again(
    squares_folder: Path, tmp_path: Path, base: Config, fixed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    limits: list[float | None] = []
    deadlines: list[float | None] = []

    def run_trial(number: int, params: dict[str, Any], config: Config, *_: Any, limit: float | None = None, **__: Any
                  ) -> TrialResult:  # fmt: skip
        limits.append(limit)
        return trial_result(number, params, config, 1.0 + number)

    def train_into(plan: RunPlan, *_: Any) -> Any:
        deadlines.append(plan.deadline)
        raise TrainingError("enough")

    searches: list[search_module.Search] = []
    plan = search_module.Search._plan

    def plan_of_slow_trial(self: search_module.Search, first: TrialRecord) -> None:
        searches.append(self)
        plan(self, replace(first, steps={"decode": 100.0, "prefix": 50.0, "head": 1.0, "finetune": 3.0}))

    monkeypatch.setattr(search_module, "run_trial", run_trial)
    monkeypatch.setattr(search_module, "train_into", train_into)
    monkeypatch.setattr(search_module.Search, "_plan", plan_of_slow_trial)
    with pytest.raises(TrainingError, match="enough"):
        regraft.tune(squares_folder, trials=3, budget=60, config=base, fixed=fixed, out=tmp_path / "a")
    (search,) = searches
    assert limits[0] is not None
    assert 0 < limits[0] <= 0.6 * 60  # the first trial leaves time to evaluate
    assert set(limits[1:]) == {None}  # the others end at the search's deadline, which their reporter has
    assert search.num_finalists == 0
    assert search.finalists_deadline is not None
    assert search.search_deadline == pytest.approx(search.finalists_deadline - 1.25 * (1.0 + 3.0))
    assert deadlines == [search.finalists_deadline]


def test_a_budget_too_short_for_full_trainings_still_gives_a_run(
    squares_folder: Path, tmp_path: Path, settings: list[str], fixed: list[str]
) -> None:
    config = load_config(None, [*settings, "training.finetune_epochs=10000"])
    result = regraft.tune(squares_folder, trials=1000, budget=4, config=config, fixed=fixed, out=tmp_path / "a")
    assert result.stopped == "time"
    assert result.finalists == ()
    assert result.run is not None
    assert result.config.training.finetune_epochs == 3
