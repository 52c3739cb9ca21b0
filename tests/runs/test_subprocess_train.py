"""Trainings in a subprocess: results, progress, errors, crashes and interrupts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from regraft.errors import RunError, WeightsError
from regraft.runs import subprocess_train
from regraft.runs.subprocess_train import time_in_subprocess, train_in_subprocess
from regraft.training.callbacks import Epoch, HeadFit
from regraft.worker_process import Message

CONFIG = """
[data]
val = 0.25
[model]
backbone = "cnn"
image_size = 32
[training]
finetune_epochs = 0
"""

FAKE = """
import os, time
from regraft.worker_process import Message

def crash(settings):
    return lambda request, emit: os._exit(3)

def fail(settings):
    return lambda request, emit: Message({"error": "no weights", "type": "WeightsError"})

def save_when_interrupted(settings):
    def handle(request, emit):
        try:
            emit(["message", "training"])
            time.sleep(60)
        finally:
            open(request.value["out"], "w").close()
    return handle
"""


class Recorder:
    """Keeps what is reported."""

    def __init__(self) -> None:
        self.progress: list[str] = []
        self.head_path: Sequence[HeadFit] = ()

    def on_progress(self, name: str, done: int, total: int, detail: str = "") -> None:
        self.progress.append(name)

    def on_head_path(self, path: Sequence[HeadFit]) -> None:
        self.head_path = path

    def on_epoch_end(self, row: Epoch) -> None:
        raise AssertionError("only the head is fitted")

    def on_message(self, text: str) -> None:
        if text == "training":
            raise KeyboardInterrupt


def test_handler_trains_and_reports(squares_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process; the tests of comparisons train in others."""
    monkeypatch.setattr(subprocess_train, "_MIN_SECONDS", 0.0)
    config, out, reporter = tmp_path / "config.toml", tmp_path / "run", Recorder()
    config.write_text(CONFIG)
    handle = subprocess_train.make_handler(None)
    for job in ({"data": str(squares_folder), "config": str(config), "out": str(out)}, {"out": str(out)}):
        reply = handle(Message(job), lambda event: subprocess_train._report(json.loads(json.dumps(event)), reporter))
        assert reply.value["one"] > 0
        assert reply.value["batch"] > 0
    assert (out / "model.safetensors").is_file()
    assert reporter.progress
    assert [fit.chosen for fit in reporter.head_path].count(True) == 1


def test_handler_turns_errors_into_values(tmp_path: Path) -> None:
    reply = subprocess_train.make_handler(None)(Message({"out": str(tmp_path / "none")}), lambda event: None)
    assert "none" in reply.value["error"]
    assert reply.value["type"] == "UsageError"


def test_errors_crashes_and_interrupts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "fake_training.py").write_text(FAKE)
    monkeypatch.syspath_prepend(tmp_path)

    def handler(settings: None) -> None:
        raise NotImplementedError

    handler.__module__, handler.__qualname__ = "fake_training", "crash"
    monkeypatch.setattr(subprocess_train, "make_handler", handler)
    with pytest.raises(RunError, match="exited with code 3 before it returned a result"):
        train_in_subprocess("data", tmp_path / "config.toml", tmp_path, tmp_path / "cache", Recorder())
    handler.__qualname__ = "fail"
    with pytest.raises(WeightsError, match="no weights"):
        time_in_subprocess(tmp_path, Recorder())
    handler.__qualname__ = "save_when_interrupted"
    with pytest.raises(KeyboardInterrupt):
        time_in_subprocess(tmp_path / "saved", Recorder())
    assert (tmp_path / "saved").is_file()
