"""`regraft evaluate`."""

from __future__ import annotations

import json
from pathlib import Path

from terminal import regraft


def test_stored_predictions_and_other_data(run: Path, squares_folder: Path, tmp_path: Path) -> None:
    own = regraft("evaluate", run)
    assert own.returncode == 0
    assert "--mistakes 6" in " ".join(own.stdout.split())
    for words in ("precision", "recall", "F1", "95 % interval", "macro average", "the run's test images"):
        assert words in own.stdout
    other = regraft(
        "evaluate", run, squares_folder, "--json", "--csv", tmp_path / "p.csv", "--plot", tmp_path / "c.png",
        "--out", tmp_path / "evaluated",
    )  # fmt: skip
    value = json.loads(other.stdout)
    assert value["count"] == 36
    assert (value["overlap"]["identical"], value["overlap"]["count"]) == (27, 9)
    assert value["calibration"]["chance"] > 0
    assert value["bad"][0]["path"] == "red/broken.png"
    assert value["ignored"] == []
    assert len((tmp_path / "p.csv").read_text().splitlines()) == 37
    assert (tmp_path / "c.png").stat().st_size > 1000
    out = tmp_path / "evaluated"
    assert json.loads((out / "evaluation.json").read_text()) == value
    assert (out / "predictions.csv").read_bytes() == (tmp_path / "p.csv").read_bytes()
    assert (out / "confusion_matrix.png").stat().st_size > 1000
    stored = regraft("evaluate", run, "--out", tmp_path / "stored")
    assert stored.returncode == 0
    assert {file.name for file in (tmp_path / "stored").iterdir()} == {
        "evaluation.json", "predictions.csv", "confusion_matrix.png"
    }  # fmt: skip
    metrics = json.loads((run / "metrics.json").read_text())
    assert json.loads(regraft("evaluate", run, "--json").stdout)["accuracy"] == metrics["test"]["accuracy"]
    assert regraft("evaluate", run, "--part", "train").returncode == 2
    assert regraft("evaluate", run, "--part", "tset").returncode == 2


def test_test_time_augmentation_is_measured(run: Path, squares_folder: Path) -> None:
    done = regraft("evaluate", run, squares_folder, "--tta", "crops")
    assert done.returncode == 0, done.stderr
    assert "27 of these images were used to train the model or to choose its settings (27 identical" in done.stdout
    assert "crops: " in done.stdout
    assert "points of accuracy" in done.stdout
    gain = json.loads(regraft("evaluate", run, squares_folder, "--tta", "flip", "--json").stdout)["tta"]
    assert gain["count"] == 36
    assert gain["milliseconds"] > 0
    for wrong in (["--tta", "flip"], [squares_folder, "--tta", "turn"]):
        assert regraft("evaluate", run, *wrong).returncode == 2


def test_a_folder_with_other_files_is_not_overwritten(run: Path, tmp_path: Path) -> None:
    before = {file: file.read_bytes() for file in run.iterdir() if file.is_file()}
    done = regraft("evaluate", run, "--out", run)
    assert done.returncode == 2
    assert f"{run} is not an empty folder, and nothing is overwritten" in " ".join(done.stderr.split())
    assert {file: file.read_bytes() for file in run.iterdir() if file.is_file()} == before
    (tmp_path / "file").write_text("mine")
    assert regraft("evaluate", run, "--out", tmp_path / "file").returncode == 2
    assert (tmp_path / "file").read_text() == "mine"
