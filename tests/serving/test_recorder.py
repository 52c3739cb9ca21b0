"""Answers are written down by a thread, and faults of a disk cost no answer."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from regraft.models.inference import Prediction
from regraft.serving import recorder
from regraft.serving.answer_log import AnswerLog, LoggedModel, read_answers
from regraft.serving.answer_numbers import AnswerNumbers
from regraft.serving.limits import Limits
from regraft.serving.recorder import Recording

MODEL = LoggedModel("photos", "abc", "a" * 64, "classification", ("daisy", "rose"))


def numbers(number: int) -> AnswerNumbers:
    probabilities = np.array([0.6, 0.4])
    return AnswerNumbers.of(Prediction("", MODEL.classes, probabilities, None, 0.5, float(number)), "classification")


def test_answers_and_samples_are_written(tmp_path: Path) -> None:
    lost: list[int] = []
    recording = Recording(tmp_path / "log", tmp_path / "samples")
    started = recording.start([MODEL], Limits(samples=4), lost.append)
    for number in range(20):
        started.submit("photos", numbers(number), b"\xff\xd8\xff" + bytes([number]))
    started.stop()
    found = read_answers(tmp_path / "log", MODEL.weights)
    assert len(found.times) == 20
    assert lost == []
    assert found.folder == str((tmp_path / "samples").resolve())
    files = {
        f"{kind}/{file.name}" for kind in ("strange", "random") for file in (tmp_path / "samples" / kind).iterdir()
    }
    assert len(files) == 4
    assert files <= {name for names in found.samples for name in names}


def test_a_folder_alone(tmp_path: Path) -> None:
    for recording in (Recording(log=tmp_path / "log"), Recording(samples=tmp_path / "samples")):
        started = recording.start([MODEL], Limits(), print)
        started.submit("photos", numbers(1), b"\xff\xd8\xff")
        started.stop()
    assert len(list((tmp_path / "log").iterdir())) == 1
    assert not list((tmp_path / "samples").rglob("*.jsonl"))


def test_what_cannot_be_written_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lost: list[int] = []
    started = Recording(tmp_path).start([MODEL], Limits(), lost.append)

    def fail(self: AnswerLog, rows: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(AnswerLog, "write", fail)
    for number in range(3):
        started.submit("photos", numbers(number), b"")
    started.stop()
    assert sum(lost) == 3


def test_nothing_waits_for_a_slow_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "_WAITING", 5)
    lost, gate, write = list[int](), threading.Event(), AnswerLog.write
    monkeypatch.setattr(AnswerLog, "write", lambda self, rows: (gate.wait(20), write(self, rows)))
    started = Recording(tmp_path).start([MODEL], Limits(), lost.append)
    for number in range(200):
        started.submit("photos", numbers(number), b"")
    gate.set()
    started.stop()
    kept = len(read_answers(tmp_path, MODEL.weights).times)
    assert kept + sum(lost) == 200
    assert sum(lost) >= 100
