"""The models of a comparison, trained within a budget; the trainings are stand-ins here."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from regraft.cluster.executor import InProcess
from regraft.config import Config, load_config
from regraft.errors import BudgetError
from regraft.runs.subprocess_train import Timing
from regraft.studies.compare import trainer as module
from regraft.studies.compare.trainer import ModelTrainer, promise_of, settings_not_for_baselines
from regraft.training.callbacks import NullReporter


def test_a_budget_is_used_up_by_the_most_promising(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left, least = [360.0], {"mobilenetv2": 90.0, "resnet50": 400.0, "cnn": 1.0}
    calls: list[tuple[str, float, int]] = []

    def train(_: str, settings: Path, out: Path, cache: Path, *, reporter: Any) -> Timing:
        name, training = settings.stem, load_config(settings).training
        calls.append((name, training.budget, training.finetune_epochs))
        if training.budget < least[name]:
            raise BudgetError("too short")
        out.mkdir()
        left[0] -= 100 if name == "mobilenetv2" else 20
        return Timing(1.0, 1.0)

    monkeypatch.setattr(module, "_OVERHEAD", 0.0)
    monkeypatch.setattr(module, "Run", lambda path: path)
    monkeypatch.setattr(module, "train_in_subprocess", train)
    monkeypatch.setattr(ModelTrainer, "_left", lambda _: left[0])
    names = sorted(["cnn", "resnet50", "mobilenetv2"], key=promise_of)
    assert names == ["mobilenetv2", "resnet50", "cnn"]
    trainer = ModelTrainer("data", Config(), tmp_path, 360.0, False, NullReporter(), InProcess())
    least["mobilenetv2"] = 130.0
    # mobilenetv2 does not fit into a third: its head alone, in all that is left
    ended = {name: future.exception() for name, future in trainer.train(names)}
    assert [type(error) for error in ended.values()] == [type(None), BudgetError, type(None)]
    assert calls == [("mobilenetv2", 120, 10), ("mobilenetv2", 360, 0), ("resnet50", 130, 10), ("resnet50", 260, 0),
                     ("cnn", 260, 30)]  # fmt: skip
    models: Any = {"mobilenetv2": SimpleNamespace(finetune_epochs=0, val_merit=0.9),
                   "cnn": SimpleNamespace(finetune_epochs=30, val_merit=0.5)}  # fmt: skip
    assert trainer.choose_again(models) == "mobilenetv2", "it had 120 s for its fine-tuning, and there are 240"
    trainer.train_again("mobilenetv2")
    assert calls[-1] == ("mobilenetv2", 240, 10)
    assert (tmp_path / "mobilenetv2").is_dir()
    assert trainer.choose_again(models) is None


def test_what_the_processes_take_besides_training_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, budgets = [1000.0], []
    #: Seconds of the training and of all else; the second training takes 5 s longer than its budget.
    costs = {"mobilenetv2": (20.0, 4.0), "resnet50": (None, 6.0), "cnn": (1.0, 2.0)}

    def train(_: str, settings: Path, out: Path, cache: Path, *, reporter: Any) -> Timing:
        budgets.append(budget := load_config(settings).training.budget)
        seconds, rest = costs[settings.stem]
        seconds = budget + 5 if seconds is None else seconds
        now[0] += seconds + rest
        return Timing(1.0, 1.0, seconds)

    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(module, "Run", lambda path: path)
    monkeypatch.setattr(module, "train_in_subprocess", train)
    trainer = ModelTrainer("data", Config(), tmp_path, 1100.0, False, NullReporter(), InProcess())
    assert trainer.overhead == module._OVERHEAD == 10
    for _ in trainer.train(["mobilenetv2", "resnet50", "cnn"]):
        pass
    assert trainer.overheads == pytest.approx([4, 11, 2])
    # 100 s for three, with 10 s each besides; 76 s for two, with 4 s each; and the rest, without the longest overhead.
    assert budgets == pytest.approx([100 / 3 - 10, 76 / 2 - 4, 1100 - (1024 + 34 + 11) - 11])
    assert now[0] < 1100


def test_settings_that_baselines_do_not_follow_are_known() -> None:
    settings = ["training.finetune_from=last", "training.finetune_epochs=3", "training.batch_size=8"]
    names = settings_not_for_baselines(load_config(None, settings))
    assert names == ["training.finetune_from", "training.finetune_epochs"]
    assert not settings_not_for_baselines(Config())
