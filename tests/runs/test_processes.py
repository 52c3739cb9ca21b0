"""Two processes train as one does, also when one of them is killed; errors are reported once."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from regraft.config import load_config
from regraft.runs.resume import resume
from regraft.runs.run import Run
from regraft.runs.train import train_from

# Seven images a step are three and four; mixing needs partners from the other process.
SETTINGS = {
    "training.finetune_epochs": 3,
    "training.batch_size": 7,
    "training.class_weights": "balanced",
    "training.precision": "off",
    "training.prefix_backend": "torch",
    "augmentation.mixup": 0.4,
    "augmentation.cutmix": 1.0,
}


def started(data: Path, out: Path, settings: dict[str, Any], cache: Path) -> subprocess.Popen[str]:
    words = [f"--set={name}={value}" for name, value in settings.items()]
    command = [sys.executable, "-m", "regraft", "train", str(data), "--out", str(out), "--processes", "2", *words]
    pipe = subprocess.PIPE
    environment = {**os.environ, "REGRAFT_CACHE": str(cache)}
    return subprocess.Popen(command, stdout=pipe, stderr=subprocess.STDOUT, text=True, env=environment)


def process_of_rank(launcher: int, rank: int) -> int:
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    return next(int(child) for child in children if f"RANK={rank}\0" in Path(f"/proc/{child}/environ").read_text())


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as opened:
        return list(csv.DictReader(opened))


def assert_same_result(run: Path, expected: Path) -> None:
    """The same split, decisions and images, and numbers that differ by rounding."""
    assert (run / "split.csv").read_text() == (expected / "split.csv").read_text()
    for table in ("head_path.csv", "history.csv"):
        got, wanted = rows(run / table), rows(expected / table)
        assert len(got) == len(wanted)
        for name in ("l2", "epoch", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "lr"):
            if name in wanted[0]:
                columns = [[float(row[name]) for row in table_rows] for table_rows in (got, wanted)]
                np.testing.assert_allclose(*columns, atol=1e-4, err_msg=name)
        decision = "chosen" if table == "head_path.csv" else "kept"
        assert [row[decision] for row in got] == [row[decision] for row in wanted]
    got, wanted = rows(run / "predictions.csv"), rows(expected / "predictions.csv")
    assert [(row["id"], row["predicted"]) for row in got] == [(row["id"], row["predicted"]) for row in wanted]
    probabilities = [
        [float(row[name]) for row in table for name in row if name.startswith("p(")] for table in (got, wanted)
    ]
    np.testing.assert_allclose(*probabilities, atol=1e-3)


@pytest.fixture(scope="module")
def settings(fast_settings: dict[str, Any], small_network: dict[str, Any]) -> dict[str, Any]:
    return fast_settings | small_network | SETTINGS


@pytest.fixture(scope="module")
def by_one(squares_folder: Path, settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train_from(squares_folder, load_config(overrides=settings), tmp_path_factory.mktemp("one") / "run")


def test_two_processes_train_as_one_does(
    squares_folder: Path, settings: dict[str, Any], by_one: Run, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    process = started(squares_folder, out, settings, tmp_path / "cache")
    text, _ = process.communicate(timeout=300)
    assert process.returncode == 0, text
    assert_same_result(out, by_one.path)
    metrics = json.loads((out / "metrics.json").read_text())
    for part in ("val", "test"):
        assert metrics[part]["count"] == by_one.metrics[part]["count"]
        assert metrics[part]["accuracy"] == by_one.metrics[part]["accuracy"]
    assert metrics["processes"]["count"] == 2
    assert 0 < metrics["processes"]["communication_share"] < 1
    assert text.count("Test accuracy") == 1
    assert "2 processes: communication took" in text
    assert "epoch 3" in (out / "logs" / "rank-1.log").read_text()
    assert not (out / ".scratch").exists()
    assert not (out / ".lock").exists()


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds a process by Linux's /proc")
def test_a_killed_process_ends_the_others_and_one_process_finishes(
    squares_folder: Path, settings: dict[str, Any], by_one: Run, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    process = started(squares_folder, out, settings, tmp_path / "cache")
    give_up = time.monotonic() + 240
    while not (out / "checkpoints" / "last.safetensors").exists() and time.monotonic() < give_up:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    os.kill(process_of_rank(process.pid, 1), signal.SIGKILL)
    text, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "Error: Process 1 of 2 was killed by SIGKILL" in text
    assert f"The run can be continued: regraft train --resume {out}, also with another number" in text
    assert text.count("Error") == 1
    assert "Traceback" not in text
    assert_same_result(resume(out).path, by_one.path)


@pytest.fixture(scope="module")
def settings_of_several(settings: dict[str, Any]) -> dict[str, Any]:
    return settings | {"data.task": "multilabel", "training.finetune_epochs": 1}


@pytest.fixture(scope="module")
def in_one_group(
    squares_folder: Path,
    several_labels: Path,
    settings_of_several: dict[str, Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The folder of two trainings in one group of two processes: of several labels, and of an image that is spoiled."""
    folder = tmp_path_factory.mktemp("group")
    shutil.copytree(squares_folder, folder / "data")
    (folder / "data" / "red" / "broken.png").unlink()
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--no-python"]
    logs = ["--log-dir", str(folder / "logs"), "--redirects", "3"]
    words = [str(folder), str(several_labels), json.dumps(settings_of_several)]
    done = subprocess.run(
        [*command, *logs, sys.executable, "-c", GROUP, *words],
        env={**os.environ, "REGRAFT_CACHE": str(folder / "cache")}, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0
    return folder


def test_several_labels_train_as_in_one_process(
    several_labels: Path, settings_of_several: dict[str, Any], in_one_group: Path, tmp_path: Path
) -> None:
    by_one = train_from(several_labels, load_config(overrides=settings_of_several), tmp_path / "one")
    run = Run(in_one_group / "several")
    assert_same_result(run.path, by_one.path)
    assert run.classifier.thresholds == pytest.approx(by_one.classifier.thresholds, abs=1e-3)
    for part in ("val", "test"):
        one, two = (r.metrics[part] for r in (by_one, run))
        assert two["count"] == one["count"]
        assert two["mean_average_precision"] == pytest.approx(one["mean_average_precision"], abs=0.01)
        assert [row["support"] for row in two["per_class"]] == [row["support"] for row in one["per_class"]]
    assert run.metrics["processes"]["count"] == 2
    assert run.metrics["train"]["accuracy"] == pytest.approx(by_one.metrics["train"]["accuracy"])


GROUP = """
import json, sys
from pathlib import Path
import torch
import regraft
from regraft.config import load_config
from regraft.runs.train import train_from
from regraft.training.callbacks import NullReporter

folder = Path(sys.argv[1])

class Spoiler(NullReporter):
    def on_message(self, text):
        if text.startswith("Run:"):  # the scan could read it
            Path(folder, "data", "red", "11.png").write_bytes(b"spoiled")

torch.distributed.init_process_group("gloo")  # as a program does that trains beside other work
train_from(sys.argv[2], load_config(overrides=json.loads(sys.argv[3])), folder / "several")
settings = {"model.image_size": 32, "training.finetune_epochs": 0, "data.val": 0, "data.test": 0}
try:
    train_from(folder / "data", load_config(overrides=settings), folder / "spoiled", reporter=Spoiler())
except regraft.RegraftError as error:
    print(type(error).__name__, error)
"""


def test_an_image_that_one_process_cannot_read_is_named(in_one_group: Path) -> None:
    outputs = [file.read_text() for file in sorted((in_one_group / "logs").rglob("stdout.log"))]
    named = f"{in_one_group / 'data' / 'red' / '11.png'}: not an image"
    assert outputs[1].startswith(f"ImageError {named}")
    assert outputs[0].startswith("PeerError ")
    log = (in_one_group / "spoiled" / "logs" / "rank-1.log").read_text()
    assert "Traceback" in log
    assert named in log
