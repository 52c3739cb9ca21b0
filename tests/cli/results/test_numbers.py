"""`predict` and `evaluate` of a model that gives an image a number."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest
from terminal import regraft as run_command

from regraft.runs.run import Run


def regraft(*words: object) -> tuple[int, str, str]:
    done = run_command(*words)
    return done.returncode, done.stdout, done.stderr


def test_predict_gives_numbers_with_intervals(numbers_run: Run, numbers_manifest: Path, tmp_path: Path) -> None:
    image = numbers_manifest.parent / "00.png"
    code, table, _ = regraft("predict", numbers_run.path, image)
    assert code == 0
    assert "brightness" in table
    assert "90 % interval" in table
    code, lines, _ = regraft("predict", numbers_run.path, image, "--json")
    value = json.loads(lines)
    assert value["interval"][0] < value["value"] < value["interval"][1]
    code, narrow, _ = regraft("predict", numbers_run.path, image, "--coverage", "0.5", "--json")
    low, high = json.loads(narrow)["interval"]
    assert high - low < value["interval"][1] - value["interval"][0]
    out = tmp_path / "numbers.csv"
    (tmp_path / "broken.png").write_bytes(b"nothing")
    code, _, errors = regraft("predict", numbers_run.path, image, tmp_path / "broken.png", "--csv", out)
    assert code == 1
    assert "1 of 2" in errors
    with out.open() as file:
        good, bad = csv.DictReader(file)
    assert float(good["brightness"]) == pytest.approx(value["value"])
    assert float(good["low"]) == pytest.approx(value["interval"][0])
    assert bad["brightness"] == ""
    assert bad["error"]


def test_files_that_are_no_images_and_out_of_distribution_answers_are_said(
    numbers_run: Run, numbers_manifest: Path, tmp_path: Path
) -> None:
    folder, out = tmp_path / "images", tmp_path / "numbers.csv"
    folder.mkdir()
    for name in ("a.png", "b.jpeg_large"):
        shutil.copy(numbers_manifest.parent / "00.png", folder / name)
    code, lines, errors = regraft("predict", numbers_run.path, folder, "--ood-rate", "0.05", "--json", "--csv", out)
    assert code == 0, errors
    assert "not used: .jpeg_large: 1 file ignored" in errors
    answer, ignored = map(json.loads, lines.splitlines())
    assert (Path(ignored["path"]).name, "ignored" in ignored) == ("b.jpeg_large", True)
    with out.open() as file:
        (row,) = csv.DictReader(file)
    assert row["out_of_distribution"] == ("yes" if answer["out_of_distribution"] else "no")
    assert list(row) == ["path", "brightness", "low", "high", "ood_p_value", "out_of_distribution", "error"]


@pytest.mark.parametrize("option", [["--top", "2"], ["--min-accuracy", "0.9"], ["--coverage", "0.99"]])
def test_what_numbers_do_not_have_is_refused(numbers_run: Run, numbers_manifest: Path, option: list[str]) -> None:
    code, _, errors = regraft("predict", numbers_run.path, numbers_manifest.parent / "00.png", *option)
    assert code == 2
    assert "numbers" in errors or "validation images" in errors


def test_evaluate_prints_errors(numbers_run: Run, numbers_manifest: Path, tmp_path: Path) -> None:
    code, text, _ = regraft("evaluate", numbers_run.path)
    assert code == 0
    assert "mean absolute error" in text
    code, text, _ = regraft("evaluate", numbers_run.path, "--json")
    assert json.loads(text)["mae"] == pytest.approx(numbers_run.evaluate_numbers().mae)
    files = {"--csv": tmp_path / "numbers.csv", "--plot": tmp_path / "numbers.png"}
    code, text, _ = regraft(
        "evaluate", numbers_run.path, numbers_manifest, *(x for pair in files.items() for x in pair)
    )
    assert code == 0
    assert "80 images" in text
    assert all(file.stat().st_size > 500 for file in files.values())
    assert "--out" not in text  # which numbers do not have


def test_the_cautions_about_subgroups_are_printed_once(numbers_run: Run, numbers_manifest: Path) -> None:
    code, text, errors = regraft("evaluate", numbers_run.path, numbers_manifest, "--by", r"(\d)\d")
    assert code == 0, errors
    assert text.count("8 subgroups have fewer than 20 images") == 1


@pytest.mark.parametrize("command", ["inspect", "classes", "distill"])
def test_commands_of_classes_refuse_numbers(
    numbers_run: Run, numbers_manifest: Path, tmp_path: Path, command: str
) -> None:
    words = {
        "classes": [numbers_run.path, "--rename", "brightness=light"],
        "distill": [numbers_run.path, "--into", "lcnet_100"],
        "inspect": [numbers_manifest],
    }[command]
    code, _, errors = regraft(command, *words, "--out", tmp_path / "out")
    assert code in (1, 2)
    assert "regression" in errors
    assert not (tmp_path / "out").exists()
