"""The log of answers: whole lines whatever happens, bounded, and read again as observations."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from regraft.errors import DataError
from regraft.models.inference import Prediction
from regraft.serving.answer_log import AnswerLog, LoggedModel, is_answer_log, read_answers
from regraft.serving.answer_numbers import AnswerNumbers

MODEL = LoggedModel("photos", "abc", "a" * 64, "classification", ("daisy", "rose"))


def answer(confidence: float, *, seconds: float = 1.0, distance: float | None = 2.0) -> dict[str, object]:
    prediction = Prediction("x.png", MODEL.classes, np.array([confidence, 1 - confidence]), None, 0.5, distance)
    return {"time": seconds, "model": "photos", **AnswerNumbers.of(prediction, "classification").to_json()}


def log_of(folder: Path, **options: object) -> AnswerLog:
    return AnswerLog(folder, [MODEL], **{"limit_bytes": 10**6, **options})  # type: ignore[arg-type]


def test_answers_are_read_as_they_were_written(tmp_path: Path) -> None:
    log = log_of(tmp_path, samples="/samples")
    log.write([answer(0.9, seconds=5.0), {**answer(0.7, seconds=4.0), "samples": ["strange/x.png"]}])
    log.write([answer(0.2, seconds=6.0)])
    log.close()
    found = read_answers(tmp_path, MODEL.weights)
    assert found.times.tolist() == [4.0, 5.0, 6.0]
    assert found.observations.confidence.tolist() == [0.7, 0.9, 0.8]
    assert [found.observations.said_of(row) for row in range(3)] == ["daisy", "daisy", "rose"]
    assert found.observations.distances is not None
    assert found.samples == (("strange/x.png",), (), ())
    assert (found.folder, found.others) == ("/samples", 0)
    assert read_answers(tmp_path, MODEL.weights, since=5.5).times.tolist() == [6.0]
    (file,) = tmp_path.iterdir()
    assert len(read_answers(file, MODEL.weights).times) == 3
    assert [is_answer_log(path) for path in (tmp_path, file, tmp_path / "no", Path(__file__))] == [1, 1, 0, 0]
    text = file.read_text()
    assert "x.png" not in text.replace("strange/x.png", "")  # no names of files


def test_answers_without_distances_and_of_other_tasks(tmp_path: Path) -> None:
    several = LoggedModel("several", "1", "b" * 64, "multilabel", ("a", "b"))
    ages = LoggedModel("ages", "1", "c" * 64, "regression", ("age",))
    log = AnswerLog(tmp_path, [MODEL, several, ages], limit_bytes=10**6)
    labels = Prediction("", several.classes, np.array([0.9, 0.1]), thresholds=(0.5, 0.5))
    none = Prediction("", several.classes, np.array([0.1, 0.1]), thresholds=(0.5, 0.5))
    age = Prediction("", ages.classes, np.empty(0), value=31.5)
    rows = [("several", labels, several), ("several", none, several), ("ages", age, ages)]
    log.write([answer(0.5, distance=None)])
    for name, prediction, model in rows:
        log.write([{"time": 1.0, "model": name, **AnswerNumbers.of(prediction, model.task).to_json()}])
    log.close()
    found = read_answers(tmp_path, several.weights)
    assert found.observations.said.tolist() == [[True, False], [False, False]]
    assert found.observations.confidence == pytest.approx([0.4, 0.4])
    assert found.observations.distances is None
    assert found.others == 2
    assert read_answers(tmp_path, ages.weights).observations.values.tolist() == [31.5]


def test_a_log_of_another_run_is_refused(tmp_path: Path) -> None:
    log = log_of(tmp_path)
    log.write([answer(0.5)])
    log.close()
    with pytest.raises(DataError, match="has no answers of this run; those in it are of photos abc"):
        read_answers(tmp_path, "f" * 64)


def test_a_killed_process_leaves_whole_lines(tmp_path: Path) -> None:
    code = (
        "import sys, os, signal, pathlib; from regraft.serving.answer_log import *;"
        "log = AnswerLog(pathlib.Path(sys.argv[1]), [LoggedModel('photos', 'abc', 'a' * 64, 'classification', ('x',))],"
        " limit_bytes=10**6);"
        "log.write([{'time': 1.0, 'model': 'photos', 'labels': ['x'], 'confidence': 0.5}] * 100);"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path], check=False, capture_output=True, text=True)
    assert done.returncode == -9, done.stderr
    assert len(read_answers(tmp_path, MODEL.weights).times) == 100
    (file,) = tmp_path.iterdir()
    with file.open("ab") as opened:
        opened.write(b'{"time": 2.0, "mod')  # as after a power cut
    assert len(read_answers(tmp_path, MODEL.weights).times) == 100


def test_a_damaged_line_is_found(tmp_path: Path) -> None:
    log = log_of(tmp_path)
    log.write([answer(0.5), answer(0.6)])
    log.close()
    (file,) = tmp_path.iterdir()
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(lines[0] + lines[1][:9] + b"\n" + lines[2])
    with pytest.raises(DataError, match="line 2 is damaged"):
        read_answers(tmp_path, MODEL.weights)
    file.write_bytes(b'{"other": 1}\n')
    with pytest.raises(DataError, match="no log of `regraft serve`"):
        read_answers(tmp_path, MODEL.weights)
    row = json.loads(lines[1])
    file.write_bytes(lines[0] + json.dumps({**row, "labels": ["tulip"]}).encode() + b"\n")
    with pytest.raises(DataError, match="is damaged: KeyError"):
        read_answers(tmp_path, MODEL.weights)


def test_several_writers_share_a_folder(tmp_path: Path) -> None:
    def write(number: int) -> None:
        log = log_of(tmp_path)
        for i in range(50):
            log.write([answer(0.5, seconds=number * 100 + i)])
        log.close()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    assert sorted(read_answers(tmp_path, MODEL.weights).times) == [n * 100 + i for n in range(4) for i in range(50)]


def test_a_log_stays_within_its_limit(tmp_path: Path) -> None:
    log = log_of(tmp_path, limit_bytes=20_000)
    for i in range(1000):
        log.write([answer(0.5, seconds=float(i))])
        assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= 20_000
    log.close()
    times = read_answers(tmp_path, MODEL.weights).times
    assert times[-1] == 999
    assert len(times) > 50
    assert (np.diff(times) == 1).all()  # the oldest are gone, and none between


def test_a_full_disk_loses_a_line_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log, write = log_of(tmp_path), os.write
    log.write([answer(0.5)])
    monkeypatch.setattr(os, "write", lambda file, content: write(file, content[:20]))
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        log.write([answer(0.6)])
    monkeypatch.undo()
    log.write([answer(0.7)])
    log.close()
    assert read_answers(tmp_path, MODEL.weights).observations.confidence.tolist() == [0.5, 0.7]
