"""Rows of the history, and the reporter that ignores everything."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from regraft.training.callbacks import Epoch, HeadFit, NullReporter, ProgressReporter, Training, wants_to_stop

EPOCH = Epoch("head", 1, 0.5, 0.75, None, None, None, 1e-3, 0.1, 300.0)


def test_rows_have_the_columns_of_the_files() -> None:
    assert Epoch(**EPOCH.to_row()) == EPOCH
    assert EPOCH.to_row()["val_loss"] is None
    fit = HeadFit(0.1, 0.5, 0.6, 0.9, 0.01)
    assert HeadFit(**fit.to_row()) == fit
    assert fit.to_row()["chosen"] is False


def test_the_null_reporter_takes_every_event() -> None:
    reporter: ProgressReporter = NullReporter()
    reporter.on_progress("head", 1, 2)
    reporter.on_head_path([])
    reporter.on_epoch_end(EPOCH)
    reporter.on_message("A sentence.")
    for name in vars(ProgressReporter):
        if name.startswith("on_"):
            expected = inspect.signature(getattr(ProgressReporter, name))
            assert inspect.signature(getattr(NullReporter, name)) == expected, name


def test_trainings_share_no_lists() -> None:
    first, second = Training(), Training()
    first.notes.append("A note.")
    first.history.append(EPOCH)
    assert (second.notes, second.history, second.interrupted, second.error) == ([], [], False, None)


def test_every_callback_is_called_and_one_can_stop() -> None:
    calls: list[tuple[int, str]] = []

    class Object:
        def on_epoch_end(self, epoch: int, metrics: Mapping[str, Any]) -> None:
            calls.append((epoch, metrics["phase"]))

    assert not wants_to_stop([Object(), lambda epoch, metrics: False], EPOCH)
    assert wants_to_stop([lambda epoch, metrics: metrics["train_loss"] == 0.5, Object()], EPOCH)
    assert calls == [(1, "head")] * 2
