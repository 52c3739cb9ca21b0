from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from terminal import regraft as regraft_command

import regraft
from regraft.config import load_config
from regraft.errors import DataError, UsageError
from regraft.evaluation.learning_curve import ClassCurve, Curve, Range
from regraft.report.learning_curve import plot_learning_curve

SMALL = load_config(None, ["model.image_size=32"])


@pytest.fixture(scope="module")
def found(squares_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[regraft.LearningCurve, Path]:
    out = tmp_path_factory.mktemp("curve") / "out"
    return regraft.learning_curve(squares_folder, config=SMALL, out=out), out


def test_what_is_written(found) -> None:
    result, out = found
    assert {file.name for file in out.iterdir()} == {"learning_curve.json", "learning_curve.csv", "learning_curve.png"}
    value = json.loads((out / "learning_curve.json").read_text())
    assert value == json.loads(json.dumps(result.to_json()))
    assert value["images"] == 36
    assert [row["name"] for row in value["classes"]] == ["blue", "green", "red"]
    assert all(row["gain_alone"]["low"] <= row["gain_alone"]["high"] for row in value["classes"])
    rows = list(csv.DictReader((out / "learning_curve.csv").read_text().splitlines()))
    assert {(row["score"], row["kind"]) for row in rows} == {
        (score, kind) for score in ("accuracy", "macro_f1", "recall") for kind in ("measured", "extrapolated")
    }
    assert [float(row["images"]) for row in rows if row["score"] == "accuracy"][-3:] == [36, 72, 144]


def test_the_same_again(found, squares_folder: Path) -> None:
    result, _ = found
    again = regraft.learning_curve(squares_folder, config=SMALL)
    assert again.accuracy == result.accuracy
    assert again.classes == result.classes


def test_what_cannot_be_done(found, squares_folder: Path, tmp_path: Path) -> None:
    _, out = found
    with pytest.raises(UsageError, match="nothing is overwritten"):
        regraft.learning_curve(squares_folder, config=SMALL, out=out)
    with pytest.raises(UsageError, match="at least 1"):
        regraft.learning_curve(squares_folder, config=SMALL, repeats=0)
    rng = np.random.default_rng(0)
    for label, count in (("many", 12), ("few", 3)):
        (tmp_path / label).mkdir()
        for i in range(count):
            Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(tmp_path / label / f"{i}.png")
    with pytest.raises(DataError, match=r"1 class has fewer than 8 images that may be divided: few \(3\)\. A curve"):
        regraft.learning_curve(tmp_path, config=SMALL)


def test_the_command(squares_folder: Path) -> None:
    command = ["learning-curve", squares_folder, "--set", "model.image_size=32", "--no-each"]
    done = regraft_command(*command, "--repeats", 1)
    assert done.returncode == 0, done.stderr
    for words in ("extrapolated", "Twice the images of all classes", "green", "--each", "augmentation or fine-tuning"):
        assert words in done.stdout
    assert json.loads(regraft_command(*command, "--json").stdout)["classes"][0]["gain_alone"] is None


@pytest.mark.parametrize("classes", [2, 60])
def test_every_number_of_classes_draws(classes: int, tmp_path: Path) -> None:
    measured = tuple(Range(v, v - 0.03, v + 0.03) for v in (0.5, 0.6, 0.7))
    gain = Range(0.02, 0.0, 0.04)
    curve = Curve((100, 200, 400), measured, (500, 1000, 2000), measured, gain, "unknown")
    rows = [ClassCurve("$a$\n日本 " * (i % 3 + 1) + str(i), 50, curve) for i in range(classes)]
    plot_learning_curve(curve, rows, tmp_path / "curve.png")
    with Image.open(tmp_path / "curve.png") as image:
        assert image.size[0] == 2100
