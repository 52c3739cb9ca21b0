"""`regraft train --resume` continues a run that was killed at any moment."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from terminal import csv_rows, regraft

import regraft as library
from regraft.errors import RunError
from regraft.runs.resume import resume

SETTINGS = [
    "--image-size", "32", "--finetune-epochs", "3", "--set", "training.views=2", "--set", "training.batch_size=8",
]  # fmt: skip


def results(run: Path) -> tuple[bytes, list[list[str]], bytes]:
    """Weights, history without its times, predictions."""
    rows = csv_rows(run / "history.csv")
    history = [[v for k, v in row.items() if k not in ("seconds", "images_per_second")] for row in rows]
    return (run / "model.safetensors").read_bytes(), history, (run / "predictions.csv").read_bytes()


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system")
def test_a_run_that_is_killed_has_the_same_results(
    squares_folder: Path, small_network: dict[str, str], tmp_path: Path
) -> None:
    whole, out = tmp_path / "whole", tmp_path / "run"
    network = [f"--set={name}={value}" for name, value in small_network.items()]
    assert regraft("train", squares_folder, "--out", whole, *SETTINGS, *network).returncode == 0
    out.mkdir()
    for name in ("source.json", "config.toml", "split.csv"):  # what a run that is killed before the head consists of
        shutil.copy(whole / name, out)
    checkpoint = out / "checkpoints" / "last.safetensors"
    command = [sys.executable, "-m", "regraft.cli", "train", "--resume", str(out)]
    for _ in range(2):  # once after the head, and once during fine-tuning
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        deadline, before = time.monotonic() + 120, os.stat(checkpoint).st_mtime_ns if checkpoint.exists() else 0
        while process.poll() is None and time.monotonic() < deadline:
            if checkpoint.exists() and os.stat(checkpoint).st_mtime_ns != before:
                break
            time.sleep(0.002)
        assert process.poll() is None, process.communicate()[0]
        process.send_signal(signal.SIGKILL)
        process.communicate()
    done = regraft("train", "--resume", out)
    assert done.returncode == 0, done.stderr
    assert results(out) == results(whole)
    assert not (out / "checkpoints").exists()
    assert not (out / ".scratch").exists()


def test_a_finished_run_stays_as_it_is(squares_run: library.Run) -> None:
    before = {file: file.stat().st_mtime_ns for file in squares_run.path.rglob("*") if file.is_file()}
    assert "Test accuracy" in regraft("train", "--resume", squares_run.path).stdout
    assert {file: file.stat().st_mtime_ns for file in squares_run.path.rglob("*") if file.is_file()} == before


def test_resume_needs_a_run_and_no_other_option(squares_run: library.Run, tmp_path: Path) -> None:
    for arguments, code, words in (
        (["--resume", squares_run.path, "--seed", 3], 2, "expected only --epochs, --track, --processes and --json"),
        ([], 2, "--resume RUN"),
        (["--resume", tmp_path], 1, "no training to resume"),
    ):
        done = regraft("train", *arguments)
        assert (done.returncode, words in done.stderr) == (code, True)


def test_changed_data_is_refused(squares_run: library.Run, squares_folder: Path, tmp_path: Path) -> None:
    data, copy = tmp_path / "squares", tmp_path / "run"
    shutil.copytree(squares_folder, data)
    shutil.copytree(squares_run.path, copy)
    (copy / "metrics.json").unlink()
    (copy / "source.json").write_text(json.dumps({"data": str(data)}))
    (data / "red" / "00.png").unlink()
    with pytest.raises(RunError, match="has changed since"):
        resume(copy)
    shutil.copy(squares_folder / "red" / "00.png", data / "red")
    assert resume(copy).metrics["test"] == squares_run.metrics["test"]
