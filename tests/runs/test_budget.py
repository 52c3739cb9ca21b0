"""Fitting a training into a time budget."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from regraft.config import load_config
from regraft.data.dataset import Split
from regraft.errors import UsageError
from regraft.models.classifier import build
from regraft.models.pretrained import smaller_sizes
from regraft.runs.budget import _fitting_size, fit_into_budget
from regraft.runs.train import train_from
from regraft.training.budget import Plan, make_plan
from regraft.training.callbacks import NullReporter
from regraft.training.options import TrainingOptions
from regraft.training.throughput import Throughput


class Messages(NullReporter):
    """Keeps the messages."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def on_message(self, text: str) -> None:
        """Keep it."""
        self.texts.append(text)


def test_size_views_and_epochs_of_a_budget_are_stored(
    squares_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates = Throughput(decode=1000, prefix=100, features=400, tail=10, last=100, predict=60)
    monkeypatch.setattr("regraft.runs.budget.measure", lambda *_: rates)
    monkeypatch.setattr("regraft.runs.budget._fitting_size", lambda *_: 64)
    config = load_config(overrides={"training.finetune_epochs": 10000, "training.budget": 30})
    run = train_from(squares_folder, config, tmp_path / "run")
    stored = load_config(run.path / "config.toml")
    assert stored.training.budget == 30
    assert stored.training.finetune_epochs < 10000
    assert stored.training.views in (1, 2, 4, 8)
    assert stored.model.image_size == run.classifier.preprocessing.size == 64


@pytest.mark.parametrize(
    ("settings", "is_precise"),
    [({"epochs": 0, "budget": 0}, False), ({"epochs": 0, "budget": 60}, True), ({"epochs": 1, "budget": 0}, True)],
)
def test_speeds_are_measured_roughly_where_they_decide_nothing(
    settings: dict[str, float], is_precise: bool, squares_split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []

    def measured(model: Any, split: Any, config: Any, warmup: bool = True) -> Throughput:
        asked.append(warmup)
        return Throughput(decode=1000, prefix=100, features=400, tail=10, last=100, predict=60)

    monkeypatch.setattr("regraft.runs.budget.measure", measured)
    training = {"training.finetune_epochs": settings["epochs"], "training.budget": settings["budget"]}
    model = build(classes=squares_split.classes, image_size=32)
    config = load_config(overrides=training)
    fit_into_budget(model, squares_split, config, time.monotonic(), NullReporter())
    assert asked == [is_precise]


def test_a_budget_that_nobody_asked_for_is_enough_for_one_backbone(
    squares_split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = Throughput(decode=1000, prefix=10, features=400, tail=1, last=10, predict=60)
    monkeypatch.setattr("regraft.runs.budget.measure", lambda *_: slow)
    model = build(classes=squares_split.classes, image_size=32)
    config = load_config(overrides={"training.budget": 60.0})
    reporter = Messages()
    plan = fit_into_budget(model, squares_split, config, time.monotonic(), reporter, own_budget=True)
    assert plan.config.training.finetune_epochs == config.training.finetune_epochs
    assert plan.config.training.budget > 60
    assert plan.deadline is not None
    assert plan.deadline > time.monotonic() + 60
    assert any("On this machine one backbone alone takes longer" in text for text in reporter.texts)


def test_too_short_a_budget_is_refused_before_any_work(squares_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is too short"):
        train_from(squares_folder, load_config(None, ["training.budget=0.2"]), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("setting", ["compile=true", "precision=int8"])
def test_what_takes_an_unknown_time_excludes_a_budget(setting: str, squares_folder: Path, tmp_path: Path) -> None:
    settings = ["training.budget=1000", f"training.{setting}"]
    with pytest.raises(UsageError, match=rf"training\.{setting.replace('=', ' = ')} and a budget of 1000 s"):
        train_from(squares_folder, load_config(None, settings), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_short_budget_reduces_the_image_size_first() -> None:
    model = build(classes=("a", "b"), image_size=224)
    rates = Throughput(decode=1000, prefix=100, features=400, tail=60, last=120, predict=60)
    sizes = {}
    for seconds in (30, 100, 140, 1000):

        def planned(rates: Throughput, seconds: float = seconds) -> Plan:
            return make_plan(model, {"train": 1000, "test": 200}, TrainingOptions(), rates, seconds=seconds)

        sizes[seconds] = _fitting_size(model, rates, planned)
    assert sizes == {30: 128, 100: 160, 140: 224, 1000: 224}
    fixed = build("vit_tiny_patch16_224", classes=("a", "b"), weights="none")
    assert smaller_sizes(fixed.spec, 224) == []


def test_a_plan_that_needs_more_memory_than_allowed_is_said(
    squares_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Reporter(NullReporter):
        def on_message(self, text: str) -> None:
            messages.append(text)

    messages: list[str] = []
    monkeypatch.setattr("regraft.runs.budget.usable_memory", lambda: 500_000_000)
    config = load_config(overrides={"model.image_size": 32, "training.finetune_epochs": 0})
    train_from(squares_folder, config, tmp_path / "run", reporter=Reporter())
    assert any("this process may use 0.5 " in message for message in messages)


@pytest.fixture
def two_busy_programs() -> Iterator[Callable[[], None]]:
    """A function that starts two programs which never wait."""
    with ExitStack() as stack:

        def start() -> None:
            for _ in range(2):
                busy = stack.enter_context(subprocess.Popen([sys.executable, "-c", "while True: pass"]))
                stack.callback(busy.kill)

        yield start


def test_the_budget_is_kept_when_other_programs_start_after_the_plan(
    squares_folder: Path, tmp_path: Path, two_busy_programs: Callable[[], None]
) -> None:
    class Reporter(NullReporter):
        def on_message(self, text: str) -> None:
            if text.startswith("Plan:"):
                two_busy_programs()

    config = load_config(overrides={"model.image_size": 64, "training.finetune_epochs": 200, "training.budget": 20})
    started = time.monotonic()
    run = train_from(squares_folder, config, tmp_path / "run", reporter=Reporter())
    assert time.monotonic() - started < 20
    assert run.metrics["test"]["count"]
