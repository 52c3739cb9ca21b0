"""`regraft explain`."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from terminal import regraft

from regraft.cli.results.explain import _describe_maps
from regraft.runs.run import load


def test_a_heat_map_per_image(run: Path, squares_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "maps"
    broken = squares_folder / "red" / "broken.png"
    files = [squares_folder / "red" / "00.png", squares_folder / "blue" / "00.png", broken]
    done = regraft("explain", run, *files, "--two", "--npy", "--out", out, "--json")
    assert done.returncode == 1
    assert "1 of 3 images could not be read" in done.stderr
    value = json.loads(done.stdout)
    good = value["images"][:2]
    assert [Path(row["picture"]).name for row in good] == ["00.png", "00-2.png"]  # two files of one name
    assert value["images"][2]["path"] == str(broken)
    assert "not an image" in value["images"][2]["error"]
    for row, file in zip(good, files, strict=False):
        assert row["targets"] == [name for name, _ in row["top"]]
        assert [p for _, p in row["top"]] == sorted((p for _, p in row["top"]), reverse=True)
        heat = np.load(row["npy"])
        with Image.open(file) as image, Image.open(row["picture"]) as picture:
            assert heat.shape == (2, image.height, image.width)
            assert picture.width > 2 * picture.height
        assert 0 <= heat.min() <= heat.max() <= 1
    assert Path(value["sheet"]).is_file()
    predicted = load(run).predict(files[0])[0]
    assert good[0]["label"] == predicted.label
    assert good[0]["top"][0][1] == pytest.approx(predicted.confidence, abs=1e-6)


def test_class_stage_and_method(run: Path, squares_folder: Path, tmp_path: Path) -> None:
    file = squares_folder / "red" / "00.png"
    done = regraft("explain", run, file, "--class", "green", "--layer", "blocks.2.0", "--method", "layercam", "--out",
                   tmp_path)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert str(tmp_path / "00.png") in done.stdout
    assert "Each map has 4 x 4 cells (stage blocks.2.0)." in done.stdout
    assert re.search(r"Finer: --layer blocks\.1\.\d \(8 x 8 cells\), or .* an --image-size above 32\.", done.stdout)
    assert not (tmp_path / "sheet.png").exists()
    for wrong, words in (
        (("--class", "purple"), "Unknown class 'purple'. Known: blue, green, red."),
        (("--layer", "pool"), "has no spatial axes"),
        (("--method", "gradcat"), "Did you mean gradcam"),
        (("--out", squares_folder / "red"), "contains images, such as"),
        (("--mistakes", 3), "Expected images, or --mistakes N, or --audit."),
        (("--audit", "--two"), "neither --class, --two nor --npy"),
    ):
        done = regraft("explain", run, file, "--out", tmp_path, *wrong)
        assert done.returncode == 2, done.stderr
        assert words in done.stderr


def test_one_picture_by_its_name(run: Path, squares_folder: Path, tmp_path: Path) -> None:
    file, out = squares_folder / "red" / "00.png", tmp_path / "gradcam.jpg"
    for _ in range(2):  # the second replaces the first
        done = regraft("explain", run, file, "--out", out)
        assert done.returncode == 0, done.stderr
        assert str(out) in done.stdout
    with Image.open(out) as picture:
        assert (picture.format, picture.size) == ("JPEG", (40, 40))
    value = json.loads(regraft("explain", run, file, "--out", out, "--json").stdout)
    assert value["images"][0]["picture"] == str(out)
    for wrong in ([file, squares_folder / "red" / "01.png"], [file, "--npy"]):
        done = regraft("explain", run, *wrong, "--out", out)
        assert done.returncode == 2
        assert "is one picture" in done.stderr
    assert [f.name for f in tmp_path.iterdir()] == ["gradcam.jpg"]


def test_maps_that_are_zero_everywhere_are_named(run: Path) -> None:
    row = {"path": "a.png", "empty": ["red"], "grid": [4, 4], "stage": "blocks.2.0"}
    text = io.StringIO()
    _describe_maps(load(run), [row, row | {"path": "b.png", "empty": []}], Console(file=text, width=300))
    assert "zero everywhere: a.png: no evidence for red" in text.getvalue()
    assert "b.png" not in text.getvalue()
    assert "Or --method integrated-gradients." in text.getvalue()


def test_errors_and_audit(run: Path, squares_folder: Path, tmp_path: Path) -> None:
    predictions = load(run).predictions.part("test")
    wrong = int((predictions.predicted != predictions.labels).sum())
    done = regraft("explain", run, "--mistakes", 2, "--out", tmp_path, "--json")
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["images"]) == min(2, wrong)
    assert ("None of the run's stored predictions" in regraft("explain", run, "--mistakes", 2).stdout) == (wrong == 0)
    # The run's own test images, and other data.
    for data, count in (((), len(predictions)), ((squares_folder,), 36)):
        done = regraft("explain", run, *data, "--audit", "--out", tmp_path / "audit", "--json")
        assert done.returncode == 0, done.stderr
        value = json.loads(done.stdout)
        assert value["images"] == count
        assert sum(row["images"] for row in value["classes"].values()) == count
        assert all(Path(file).is_file() for file in value["files"])
        assert set(value["accuracy"]) == {"plain", "evidence_hidden", "as_much_elsewhere_hidden"}
        with (tmp_path / "audit" / "evidence.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert np.mean([row["label"] == row["predicted"] for row in rows]) == value["accuracy"]["plain"]["value"]
    assert value["accuracy"]["plain"]["value"] == pytest.approx(
        json.loads(regraft("evaluate", run, squares_folder, "--json").stdout)["accuracy"]
    )
    # A model that is no better than one class is not audited; one that is always right is.
    names = load(run).classes
    for prediction in load(run).predict(sorted(squares_folder.glob("*/[0-9]*.png"))):
        other = names[names.index(prediction.label) - 1]
        for place, label in (("as predicted", prediction.label), ("otherwise", other)):
            source, folder = Path(prediction.source), tmp_path / place / label
            folder.mkdir(parents=True, exist_ok=True)
            for copy in "123":
                shutil.copy(source, folder / f"{source.parent.name}-{copy}-{source.name}")
    told = regraft("explain", run, tmp_path / "otherwise", "--audit", "--out", tmp_path / "audit").stdout
    assert "the numbers are withheld" in told
    assert "evidence at the border" not in told
    told = regraft("explain", run, tmp_path / "as predicted", "--audit", "--out", tmp_path / "audit").stdout
    assert "evidence at the border" in told
