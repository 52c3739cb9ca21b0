"""Runs that are killed at any moment go on with `regraft train --resume`."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from regraft.pipeline.run import HISTORY

SETTINGS = [
    "--image-size",
    "32",
    "--finetune-epochs",
    "4",
    "--set",
    "training.views=2",
    "--set",
    "training.batch_size=8",
]


def _start(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "regraft.cli", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def _finish(*arguments: object, code: int = 0) -> str:
    process = _start(*arguments)
    out, _ = process.communicate(timeout=300)
    assert process.returncode == code, out
    return out


def _numbers(run: Path) -> tuple[bytes, list[list[str]], bytes]:
    """Weights, history without its times, predictions."""
    with (run / HISTORY).open(newline="") as file:
        rows = [
            [v for k, v in row.items() if k not in ("seconds", "images_per_second")] for row in csv.DictReader(file)
        ]
    return (run / "model.safetensors").read_bytes(), rows, (run / "predictions.csv").read_bytes()


@pytest.fixture(scope="module")
def whole(squares_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing disturbed."""
    out = tmp_path_factory.mktemp("resume") / "whole"
    _finish("train", squares_folder, "--out", out, *SETTINGS)
    assert not (out / "checkpoints").exists()
    return out


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system")
def test_killed_three_times_and_still_the_same_numbers(whole: Path, squares_folder: Path, tmp_path: Path) -> None:
    out, standing = tmp_path / "run", tmp_path / "run" / "checkpoints" / "last.safetensors"
    command: list[object] = ["train", squares_folder, "--out", out, *SETTINGS]
    # Once as soon as the folder is claimed, then after the head, then in the midst of fine-tuning.
    for kill in range(3):
        process = _start(*command)
        waited, seen = time.monotonic() + 120, os.stat(standing).st_mtime_ns if standing.exists() else 0
        while process.poll() is None and time.monotonic() < waited:
            if (kill == 0 and (out / "split.csv").exists()) or (
                kill > 0 and standing.exists() and os.stat(standing).st_mtime_ns != seen
            ):
                break
            time.sleep(0.002)
        assert process.poll() is None, process.communicate()[0]
        process.send_signal(signal.SIGKILL)
        process.communicate()
        command = ["train", "--resume", out]
    _finish(*command)
    assert _numbers(out) == _numbers(whole)
    assert not (out / "checkpoints").exists()
    assert not (out / ".scratch").exists()


def test_a_finished_run_is_left_as_it_is(whole: Path) -> None:
    before = {file: file.stat().st_mtime_ns for file in whole.rglob("*") if file.is_file()}
    assert "Test accuracy" in _finish("train", "--resume", whole)
    assert {file: file.stat().st_mtime_ns for file in whole.rglob("*") if file.is_file()} == before


def test_resume_goes_alone_and_needs_a_run(whole: Path, tmp_path: Path) -> None:
    assert "expected no others" in _finish("train", "--resume", whole, "--seed", 3, code=2)
    assert "--resume RUN" in _finish("train", code=2)
    assert "nothing to resume" in _finish("train", "--resume", tmp_path, code=1)
