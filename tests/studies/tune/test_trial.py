from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch

import regraft
from regraft.cache import Cache
from regraft.config import Config
from regraft.studies.tune import trial as trial_module
from regraft.studies.tune.trial import OutOfTime, TrialReporter, run_trial, value_to_minimize
from regraft.training.callbacks import NullReporter, Training
from regraft.training.losses import EpochMetrics
from regraft.training.trainer import train


def test_the_loss_decides_only_between_equal_scores() -> None:
    def value(metric: Any, loss: float, accuracy: float, macro_f1: float) -> float:
        return value_to_minimize(metric, loss, EpochMetrics(loss, accuracy, macro_f1, 100, 0.0, (loss,)))

    assert value("loss", 0.3, 0.5, 0.5) == 0.3
    for metric in ("accuracy", "macro_f1"):
        assert value(metric, 0.3, 0.5, 0.5) < value(metric, 0.4, 0.5, 0.5)
        assert value(metric, 9.0, 0.51, 0.51) < value(metric, 0.1, 0.5, 0.5)


def test_a_passed_deadline_ends_the_training(squares_split: regraft.Split) -> None:
    reporter = TrialReporter(NullReporter(), "search", 0, 1, "trial 0", deadline=time.monotonic())
    model = regraft.build(classes=squares_split.classes, image_size=32, weights="none")
    with pytest.raises(OutOfTime):
        train(model, squares_split, reporter=reporter, finetune_epochs=0)


def test_a_trial_ends_at_its_limit_with_a_result(
    squares_split: regraft.Split, base: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainings: list[Training] = []

    def recorded(*arguments: Any, **options: Any) -> Training:
        trainings.append(train(*arguments, **options))
        return trainings[-1]

    monkeypatch.setattr(trial_module, "train_classifier", recorded)
    reporter = TrialReporter(NullReporter(), "search", 0, 1, "trial 0")
    for limit in (None, 0.0):
        result = run_trial(0, {}, base, squares_split, "loss", cache=Cache(tmp_path / "cache"), scratch=tmp_path / "s",
                           reporter=reporter, limit=limit)  # fmt: skip
        assert result.record.state == "complete"
    epochs = [sum(row.phase == "finetune" for row in training.history) for training in trainings]
    assert epochs == [base.training.finetune_epochs, 0]


def test_an_exception_in_the_epoch_callback_ends_the_training_and_restores_the_random_state(
    squares_split: regraft.Split,
) -> None:
    class PrunedError(Exception):
        pass

    def prune(_: Any) -> None:
        raise PrunedError

    reporter = TrialReporter(NullReporter(), "search", 0, 1, "trial 0", on_epoch=prune)
    model = regraft.build(classes=squares_split.classes, image_size=32)
    state = torch.random.get_rng_state()
    with pytest.raises(PrunedError):
        train(model, squares_split, reporter=reporter, finetune_from="last", views=1)
    assert torch.equal(state, torch.random.get_rng_state())
