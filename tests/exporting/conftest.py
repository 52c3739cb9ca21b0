"""Runs and an export that the tests of this folder share."""

from __future__ import annotations

from pathlib import Path

import pytest
from terminal import regraft

from regraft.exporting.export import export
from regraft.runs.run import Run, load


def _train(data: Path, out: Path, *options: object) -> Run:
    """Train a head on images of 32 pixels."""
    parts = ("--set", "data.val=0.25", "--set", "data.test=0.25")
    done = regraft("train", data, "--out", out, "--image-size", 32, "--finetune-epochs", 0, *parts, *options)
    assert done.returncode == 0, done.stderr
    return load(out)


@pytest.fixture(scope="session")
def run(squares_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of a small convolutional network."""
    out = tmp_path_factory.mktemp("small") / "run"
    return _train(squares_folder, out, "--backbone", "cnn", "--set", "training.head_epochs=3")


@pytest.fixture(scope="session")
def efficientnet_run(squares_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of a tiny network with the operations of a modern one."""
    out = tmp_path_factory.mktemp("efficientnet") / "run"
    return _train(squares_folder, out, "--backbone", "test_efficientnet", "--weights", "none")


@pytest.fixture(scope="session")
def onnx_export(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The export of `run` to ONNX. Tests copy it before they change it."""
    (result,) = export(run, "onnx", out=tmp_path_factory.mktemp("exports"))
    return result.path
