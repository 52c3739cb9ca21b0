"""Classes of a run are renamed, merged and dropped, into a new run."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from terminal import csv_rows, regraft

import regraft as library
from regraft.errors import UsageError


def test_new_names_change_no_number(squares_run: library.Run, squares_folder: Path, tmp_path: Path) -> None:
    files = {path: path.read_bytes() for path in squares_run.path.rglob("*") if path.is_file()}
    run = library.change_classes(squares_run, rename={"red": "azure"}, out=tmp_path / "run")
    assert {path: path.read_bytes() for path in squares_run.path.rglob("*") if path.is_file()} == files
    assert run.classes == ("azure", "blue", "green")
    order, image = [2, 0, 1], squares_folder / "red" / "00.png"
    before, after = squares_run.predict(image)[0], library.load(run.path).predict(image)[0]
    assert after.probabilities == pytest.approx(before.probabilities[order], rel=1e-5)
    assert after.ood_p_value == before.ood_p_value
    assert run.evaluate().accuracy == squares_run.evaluate().accuracy
    assert run.metrics["test"]["macro_f1"] == pytest.approx(squares_run.metrics["test"]["macro_f1"])
    assert {row["label"] for row in csv_rows(run.path / "split.csv")} == set(run.classes)
    assert "red is now azure" in (run.path / "report.html").read_text()
    # A run with changed classes can be the start of others.
    again = library.change_classes(run, rename={"azure": "red"}, out=tmp_path / "again")
    assert again.predictions.classes == squares_run.predictions.classes
    assert np.array_equal(again.predictions.probabilities, squares_run.predictions.probabilities)


def test_classes_are_merged_and_dropped(squares_run: library.Run, tmp_path: Path) -> None:
    merged = library.change_classes(squares_run, merge={"cold": ["blue", "green"]}, out=tmp_path / "merged")
    assert merged.classes == ("cold", "red")
    parts = {row["path"]: row["part"] for row in csv_rows(squares_run.path / "split.csv")}
    assert {row["path"]: row["part"] for row in csv_rows(merged.path / "split.csv")} == parts
    comparison = merged.metrics["earlier_run"]["comparison"]
    assert comparison["count"] == merged.metrics["test"]["count"] == 9
    p = squares_run.predictions_of("test")
    right = np.isin(p.labels, (0, 1)) == (p.probabilities[:, :2].sum(axis=1) > p.probabilities[:, 2])
    assert comparison["before"] == pytest.approx(right.mean())
    before, after = squares_run.classifier.backbone.state_dict(), merged.classifier.backbone.state_dict()
    assert all(np.array_equal(before[name], after[name]) for name in before)

    dropped = regraft("classes", merged.path, "--drop", "red", "--out", tmp_path / "one")
    assert (dropped.returncode, "at least two classes" in dropped.stderr) == (2, True)
    dropped = regraft("classes", squares_run.path, "--drop", "red", "--out", tmp_path / "two")
    assert dropped.returncode == 0, dropped.stderr
    run = library.load(tmp_path / "two")
    assert run.classes == ("blue", "green")
    assert run.metrics["data"]["counts"]["test"] == {"blue": 3, "green": 3}
    assert "red is dropped" in dropped.stdout


def test_the_command_lists_classes(squares_run: library.Run) -> None:
    done = regraft("classes", squares_run.path)
    assert done.returncode == 0, done.stderr
    assert [line.split() for line in done.stdout.splitlines()][1] == ["blue", "12", "6", "3", "3"]
    assert regraft("classes", squares_run.path, "--out", "elsewhere").returncode == 2


def test_without_images_only_names_change(squares_run: library.Run, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(squares_run.path, copy)
    (copy / "source.json").unlink()
    (copy / "exemplars.safetensors").unlink()
    renamed = library.change_classes(copy, rename={"red": "rouge"}, out=tmp_path / "renamed")
    assert renamed.classes == ("blue", "green", "rouge")
    with pytest.raises(UsageError, match="are needed"):
        library.change_classes(copy, merge={"cold": ["blue", "green"]}, out=tmp_path / "merged")
    assert not (tmp_path / "merged").exists()
