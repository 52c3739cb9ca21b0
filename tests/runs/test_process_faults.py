"""A full disk, a kill while saving, and two trainings in one folder: one clear error, and nothing half written."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from regraft.runs.resume import resume
from regraft.runs.run import Run
from regraft.training.callbacks import NullReporter

# Python runs a file of this name in every process that starts.
HOOK = "sitecustomize.py"
FULL_DISK = """
import os
if os.environ.get("RANK") == "1":
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, resource.RLIM_INFINITY))
"""
KILL_WHILE_SAVING = """
import os, signal
if os.environ.get("RANK") == "0":
    import safetensors.torch
    save_file, count = safetensors.torch.save_file, 0
    def save_half(tensors, file, metadata=None):
        global count
        save_file(tensors, file, metadata)
        count += "last.safetensors" in str(file)
        if count == 2:
            os.truncate(file, os.path.getsize(file) // 2)
            os.kill(os.getpid(), signal.SIGKILL)
    safetensors.torch.save_file = save_half
"""


class Recorder(NullReporter):
    def __init__(self) -> None:
        self.messages: list[str] = []

    def on_message(self, text: str) -> None:
        self.messages.append(text)


def started(
    data: Path, out: Path, settings: dict[str, Any], cache: Path, *words: str, hook: str = ""
) -> subprocess.Popen[str]:
    environment = {**os.environ, "REGRAFT_CACHE": str(cache)}
    if hook:
        folder = out.parent / "hook"
        folder.mkdir()
        (folder / HOOK).write_text(hook)
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    flags = [f"--set={name}={value}" for name, value in settings.items()]
    return subprocess.Popen(
        [sys.executable, "-m", "regraft", "train", str(data), "--out", str(out), *flags, *words],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment,
    )  # fmt: skip


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as opened:
        return list(csv.DictReader(opened))


def assert_same_answers(run: Path, expected: Path) -> None:
    assert (run / "split.csv").read_text() == (expected / "split.csv").read_text()
    tables = {"history.csv": ("phase", "epoch", "kept"), "predictions.csv": ("id", "part", "predicted")}
    for file, columns in tables.items():
        got, wanted = ([[row[name] for name in columns] for row in rows(path / file)] for path in (run, expected))
        assert got == wanted


@pytest.mark.skipif(sys.platform != "linux", reason="limits the size of files")
def test_a_full_disk_of_one_process_is_one_error_and_leaves_a_cache_that_can_be_used(
    squares_folder: Path,
    fast_settings: dict[str, Any],
    squares_run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out, cache = tmp_path / "run", tmp_path / "cache"
    process = started(squares_folder, out, fast_settings, cache, "--processes", "2", hook=FULL_DISK)
    text, _ = process.communicate(timeout=120)
    assert process.returncode == 1, text
    assert text.count("Error") == 1, text
    assert "rows.bin: File too large" in text
    assert "Traceback" not in text
    assert not (out / "model.json").exists()
    assert not [path for path in (*out.rglob("*.partial"), *out.rglob(".scratch"))]
    monkeypatch.setenv("REGRAFT_CACHE", str(cache))
    assert_same_answers(resume(out).path, squares_run.path)


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_a_process_that_is_killed_while_it_saves_leaves_the_state_before(
    squares_folder: Path, fast_settings: dict[str, Any], squares_run: Run, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    process = started(
        squares_folder, out, fast_settings, tmp_path / "cache", "--processes", "2", hook=KILL_WHILE_SAVING
    )
    text, _ = process.communicate(timeout=120)
    assert process.returncode == 1, text
    assert "Error: Process 0 of 2 was killed by SIGKILL" in text
    assert text.count("Error") == 1
    recorder = Recorder()
    assert_same_answers(resume(out, reporter=recorder).path, squares_run.path)
    assert any("resumes after the head phase." in text for text in recorder.messages)


def test_of_two_trainings_in_one_folder_one_finishes_and_the_other_says_why_not(
    squares_folder: Path, fast_settings: dict[str, Any], tmp_path: Path
) -> None:
    settings = fast_settings | {"training.finetune_epochs": 0}
    processes = [started(squares_folder, tmp_path / "run", settings, tmp_path / "cache") for _ in range(2)]
    texts = [process.communicate(timeout=120)[0] for process in processes]
    codes = [process.returncode for process in processes]
    assert sorted(codes) == [0, 1], texts
    refused = texts[codes.index(1)]
    assert "Another process is training in" in refused or "contains a run already" in refused
    assert refused.count("Error") == 1
    assert len(rows(tmp_path / "run" / "predictions.csv")) == 18
    assert not list((tmp_path / "run").rglob("*.partial"))
