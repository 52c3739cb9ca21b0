"""`regraft predict`."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
from PIL import Image
from terminal import regraft

from regraft.evaluation.abstention import conformal_threshold, threshold_for
from regraft.runs.run import load


def test_a_table_and_json_lines(run: Path, squares_folder: Path) -> None:
    done = regraft("predict", run, squares_folder / "red" / "00.png", squares_folder / "blue" / "01.png", "--top", 2)
    lines = [line for line in done.stdout.splitlines() if ".png" in line]
    assert ["00.png" in lines[0], "01.png" in lines[1]] == [True, True]
    assert all(line.count("%") == 2 for line in lines)
    done = regraft("predict", run, squares_folder / "red", "--json")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 1
    assert "1 of 13 images could not be read" in done.stderr
    assert [Path(row["path"]).name for row in rows] == [*[f"{i:02d}.png" for i in range(12)], "broken.png"]
    assert "error" in rows[-1]
    assert rows[0]["top"][0]["label"] == rows[0]["label"]
    assert "broken.png" in done.stderr


def test_a_name_of_two_lines_has_one_row(run: Path, squares_folder: Path, tmp_path: Path) -> None:
    image = tmp_path / "two\nlines.png"
    shutil.copy(squares_folder / "red" / "00.png", image)
    (row,) = (line for line in regraft("predict", run, image).stdout.splitlines() if "%" in line)
    assert "two lines.png" in row
    assert json.loads(regraft("predict", run, image, "--json").stdout)["path"] == str(image)


def test_other_files_of_a_folder_are_said(run: Path, squares_folder: Path, tmp_path: Path) -> None:
    content = (squares_folder / "red" / "00.png").read_bytes()
    for name in ("a.png", "b.jpeg_large", "c", "._a.png"):
        (tmp_path / name).write_bytes(content)
    done = regraft("predict", run, tmp_path)
    assert done.returncode == 0, done.stderr
    pages = [Image.new("L", (40, 40), value) for value in (0, 90, 200)]
    pages[0].save(tmp_path / "stack.tif", save_all=True, append_images=pages[1:])
    words = f"1 image has several frames or pages, such as {tmp_path / 'stack.tif'}; only the first is used."
    assert words in regraft("predict", run, tmp_path / "stack.tif").stderr
    (tmp_path / "stack.tif").unlink()
    for words in (".jpeg_large: 1 file ignored", "No extension: 1 file", "PNG image", "Hidden and system files: 1"):
        assert words in done.stderr
    rows = [json.loads(line) for line in regraft("predict", run, tmp_path, "--json").stdout.splitlines()]
    assert [(Path(row["path"]).name, "ignored" in row) for row in rows] == [
        ("a.png", False), ("b.jpeg_large", True), ("c", True), ("._a.png", True),
    ]  # fmt: skip


def test_csv(run: Path, squares_folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "p.csv"
    done = regraft("predict", run, squares_folder / "red", squares_folder / "blue" / "00.png", "--csv", file)
    assert done.returncode == 1
    rows = list(csv.DictReader(file.read_text().splitlines()))
    assert len(rows) == 14
    assert set(rows[0]) == {"path", "label", "confidence", "p(blue)", "p(green)", "p(red)", "error"}
    assert float(rows[0]["confidence"]) == max(float(rows[0][f"p({name})"]) for name in ("blue", "green", "red"))
    assert rows[12]["error"]
    assert not rows[12]["label"]
    assert rows[13]["path"].endswith("blue/00.png")


def test_unreadable_files_alone_are_a_failure(run: Path, squares_folder: Path, tmp_path: Path) -> None:
    done = regraft("predict", run, squares_folder / "red" / "broken.png", tmp_path / "missing.png")
    assert done.returncode == 1
    assert "file not found" in done.stdout
    assert regraft("predict", run, tmp_path).returncode == 2


def test_min_accuracy_and_coverage(run: Path, squares_folder: Path, tmp_path: Path) -> None:
    images = sorted((squares_folder / "red").glob("[0-9]*.png"))
    done = regraft("predict", run, *images, "--json", "--min-accuracy", "0.5", "--coverage", "0.9")
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    val = load(run).predictions.part("val")
    selection = threshold_for(val, 0.5)
    lowest = conformal_threshold(val, 0.9)
    for line in lines:
        assert line["accepted"] == (line["confidence"] >= selection.threshold)
        probabilities = {entry["label"]: entry["probability"] for entry in line["top"]}
        in_set = {name for name, p in probabilities.items() if p >= lowest}
        assert set(line["prediction_set"]) & set(probabilities) == in_set
    table = regraft("predict", run, *images, "--min-accuracy", "0.5", "--coverage", "0.9")
    assert table.returncode == 0, table.stderr
    for words in ("accepted", "prediction_set", "Accepted at a confidence of", "validation images"):
        assert words in table.stdout
    done = regraft("predict", run, *images, "--csv", tmp_path / "p.csv", "--min-accuracy", "0.5")
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader((tmp_path / "p.csv").read_text().splitlines()))
    assert [row["accepted"] == "yes" for row in rows] == [line["accepted"] for line in lines]
    assert regraft("predict", run, *images, "--min-accuracy", "1.5").returncode == 2


def test_out_of_distribution_images(run: Path, squares_folder: Path, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    images = [tmp_path / "noise.png", squares_folder / "red" / "00.png"]
    predictions = load(run).predict(images)
    label, p_values = predictions[1].label, [p.ood_p_value for p in predictions]
    assert None not in p_values
    assert 0 < p_values[0] < p_values[1] <= 1  # type: ignore[operator]  # no None
    rate = f"{(p_values[0] + p_values[1]) / 2:.3f}"  # type: ignore[operator]  # no None
    done = regraft("predict", run, *images, "--json", "--ood-rate", rate)
    assert done.returncode == 0, done.stderr
    outside, inside = (json.loads(line) for line in done.stdout.splitlines())
    assert (outside["out_of_distribution"], outside["label"], outside["ood_p_value"]) == (True, None, p_values[0])
    assert (inside["out_of_distribution"], inside["label"]) == (False, label)
    assert "out_of_distribution" in regraft("predict", run, *images, "--ood-rate", rate).stdout
    regraft("predict", run, *images, "--csv", tmp_path / "p.csv", "--ood-rate", rate)
    with (tmp_path / "p.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["label"], row["out_of_distribution"]) for row in rows] == [("", "yes"), (label, "no")]
    done = regraft("predict", run, *images, "--ood-rate", "0.0001")
    assert done.returncode == 2
    assert "validation images, expected at" in done.stderr


def test_test_time_augmentation(run: Path, squares_folder: Path) -> None:
    image = squares_folder / "red" / "00.png"
    plain, flipped, again = (
        json.loads(regraft("predict", run, image, "--json", "--tta", tta).stdout) for tta in ("none", "flip", "flip")
    )
    assert flipped == again
    assert flipped["confidence"] != plain["confidence"]
    assert flipped["ood_p_value"] == plain["ood_p_value"]


def test_one_missing_file_is_reported_once(run: Path, tmp_path: Path) -> None:
    done = regraft("predict", run, tmp_path / "missing.png")
    assert done.returncode == 1
    assert (done.stdout + done.stderr).count("missing.png") == 1
    done = regraft("predict", run, tmp_path / "missing.png", tmp_path / "gone.png")
    assert (done.stdout + done.stderr).count("missing.png") == 1
    assert "2 of 2 images could not be read" in done.stderr


def test_a_folder_of_parts_is_completed(run: Path, squares_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ("predict", run, squares_folder / "blue", squares_folder / "green", "--out", out, "--format", "csv")
    done = regraft(*words, "--part-size", 3)
    assert done.returncode == 0, done.stderr
    files = sorted(out.glob("part-*.csv"))
    assert f"24 rows in {len(files)} files in {out}; {len(files)} files computed now." in done.stdout
    rows = [row for file in files for row in csv.DictReader(file.read_text(encoding="utf-8").splitlines())]
    assert len({row["path"] for row in rows}) == len(rows) == 24
    files[0].unlink()
    value = json.loads(regraft(*words, "--part-size", 3, "--json").stdout)
    assert (value["images"], value["computed"], value["unreadable"]) == (24, 1, [])
    done = regraft("predict", run, squares_folder / "red", "--out", out, "--format", "csv", "--part-size", 3)
    assert done.returncode == 2
    assert "contains predictions that differ in images" in done.stderr


def test_options_that_do_not_go_together_are_refused(run: Path, squares_folder: Path) -> None:
    for words, problem in (
        (("--cluster", "auto"), "--cluster needs --out FOLDER"),
        (("--cluster-cpus", 2), "--cluster-cpus 2 has no effect without --cluster"),
        (("--csv", "a.csv", "--out", "parts"), "Received --csv and --out"),
        (("--format", "csv", "--part-size", 5), "--format and --part-size have no effect without --out FOLDER"),
        (("--out", "parts", "--top", 2), "--top has no effect with --out, whose files have all classes"),
    ):
        done = regraft("predict", run, squares_folder, *words)
        assert done.returncode == 2
        assert problem in done.stderr
