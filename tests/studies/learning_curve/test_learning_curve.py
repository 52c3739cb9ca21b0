from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import regraft
from regraft.cli import app
from regraft.cli.tasks.classification import learning_curve_lines
from regraft.config import load_config
from regraft.errors import DataError, UsageError

SMALL = load_config(None, ["model.image_size=32"])


@pytest.fixture(scope="module")
def measured(squares_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[regraft.LearningCurve, Path]:
    out = tmp_path_factory.mktemp("curve") / "out"
    return regraft.learning_curve(squares_folder, config=SMALL, out=out), out


def test_files_hold_the_result(measured: tuple[regraft.LearningCurve, Path]) -> None:
    result, out = measured
    assert {file.name for file in out.iterdir()} == {"learning_curve.json", "learning_curve.csv", "learning_curve.png"}
    value = json.loads((out / "learning_curve.json").read_text())
    assert value == json.loads(json.dumps(result.to_json()))
    assert value["images"] == 36
    assert "36 images, accuracy" in repr(result)
    assert [row["name"] for row in value["classes"]] == ["blue", "green", "red"]
    assert all(row["gain_alone"]["low"] <= row["gain_alone"]["high"] for row in value["classes"])
    rows = list(csv.DictReader((out / "learning_curve.csv").read_text().splitlines()))
    assert {(row["score"], row["kind"]) for row in rows} == {
        (score, kind) for score in ("accuracy", "macro_f1", "recall") for kind in ("measured", "extrapolated")
    }
    assert [float(row["images"]) for row in rows if row["score"] == "accuracy"][-3:] == [36, 72, 144]


def test_wrong_arguments_and_too_few_images_are_refused(
    measured: tuple[regraft.LearningCurve, Path], squares_folder: Path, tmp_path: Path
) -> None:
    _, out = measured
    with pytest.raises(UsageError, match="nothing is overwritten"):
        regraft.learning_curve(squares_folder, config=SMALL, out=out)
    with pytest.raises(UsageError, match="at least 1"):
        regraft.learning_curve(squares_folder, config=SMALL, repeats=0)
    rng = np.random.default_rng(0)
    for label, count in (("many", 12), ("few", 3)):
        (tmp_path / label).mkdir()
        for i in range(count):
            Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(tmp_path / label / f"{i}.png")
    with pytest.raises(DataError, match=r"1 class has fewer than 8 images that can be divided: few \(3\)\. A curve"):
        regraft.learning_curve(tmp_path, config=SMALL)


def test_the_command_prints_the_same_numbers_again(
    measured: tuple[regraft.LearningCurve, Path], squares_folder: Path
) -> None:
    command = ["learning-curve", str(squares_folder), "--set", "model.image_size=32"]
    again = CliRunner().invoke(app, [*command, "--json"])
    assert json.loads(again.stdout)["classes"] == json.loads(json.dumps(measured[0].to_json()))["classes"]
    printed = CliRunner().invoke(app, [*command, "--no-each", "--repeats", "1"])
    assert printed.exit_code == 0, printed.output
    for words in ("extrapolated", "Twice the images of all classes", "green", "--each", "augmentation or fine-tuning"):
        assert words in printed.output


def test_nothing_is_extrapolated_at_chance(squares: regraft.Dataset, tmp_path: Path) -> None:
    guessed = squares.with_samples([replace(s, label=squares.classes[i % 3]) for i, s in enumerate(squares.samples)])
    curve = regraft.learning_curve(guessed, config=SMALL, out=tmp_path / "out", each=False)
    assert "not clearly better than always predicting the most frequent class" in curve.at_chance
    value = json.loads((tmp_path / "out" / "learning_curve.json").read_text())
    assert value["withheld"] == curve.at_chance
    assert set(value["accuracy"]) == {"measured"}
    assert (tmp_path / "out" / "learning_curve.png").exists()
    assert "extrapolated" not in (tmp_path / "out" / "learning_curve.csv").read_text()
    assert learning_curve_lines(curve)[-1].endswith("Nothing is extrapolated from it.[/yellow]")
