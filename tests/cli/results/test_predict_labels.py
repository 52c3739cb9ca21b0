"""`regraft predict` with a run that gives an image any number of labels."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pyarrow.parquet
import pytest
from terminal import regraft

from regraft.data.labels import join_labels, split_labels
from regraft.runs.run import Run


def test_a_table_and_json_list_the_labels(several_run: Run, several_labels: Path) -> None:
    images = sorted(several_labels.parent.glob("0*.png"))
    expected = several_run.predict(images)
    done = regraft("predict", several_run.path, *images, "--json", "--top", 2)
    assert done.returncode == 0, done.stderr
    limits = dict(zip(several_run.classes, several_run.classifier.thresholds, strict=True))
    for line, prediction in zip(done.stdout.splitlines(), expected, strict=True):
        row = json.loads(line)
        assert [one["label"] for one in row["labels"]] == list(prediction.labels)
        assert all(one["probability"] >= one["threshold"] == limits[one["label"]] for one in row["labels"])
        assert [one["label"] for one in row["top"]] == [name for name, _ in prediction.top(2)]
        assert "label" not in row
    assert any(len(prediction.labels) != 1 for prediction in expected)
    table = regraft("predict", several_run.path, *images)
    for line, prediction in zip(table.stdout.splitlines()[1:], expected, strict=False):
        assert [name in line for name in several_run.classes] == [
            name in prediction.labels for name in several_run.classes
        ]
    assert f"blue {100 * limits['blue']:.1f} %" in table.stdout.splitlines()[-1]
    assert "most probable" in regraft("predict", several_run.path, images[0], "--top", 3).stdout


def test_files_have_a_column_of_labels(several_run: Run, several_labels: Path, tmp_path: Path) -> None:
    images = sorted(several_labels.parent.glob("[0-9]*.png"))
    done = regraft("predict", several_run.path, *images, "--csv", tmp_path / "p.csv")
    assert done.returncode == 0, done.stderr
    with (tmp_path / "p.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["path", "labels", "p(blue)", "p(green)", "p(red)", "error"]
    limits = several_run.classifier.thresholds
    for row in rows:
        above = [name for name, t in zip(several_run.classes, limits, strict=True) if float(row[f"p({name})"]) >= t]
        assert row["labels"] == join_labels(above)
    for kind in ("parquet", "jsonl"):
        done = regraft("predict", several_run.path, *images, "--out", tmp_path / kind, "--format", kind)
        assert done.returncode == 0, done.stderr
    (part,) = (tmp_path / "parquet").glob("part-*.parquet")
    table = pyarrow.parquet.read_table(part)
    assert [sorted(labels) for labels in table.column("labels").to_pylist()] == [
        sorted(split_labels(row["labels"])) for row in rows
    ]
    (part,) = (tmp_path / "jsonl").glob("part-*.jsonl")
    lines = [json.loads(line) for line in part.read_text().splitlines()]
    assert [sorted(one["label"] for one in line["labels"]) for line in lines] == [
        sorted(split_labels(row["labels"])) for row in rows
    ]


def test_other_thresholds(several_run: Run, several_labels: Path) -> None:
    image = several_labels.parent / "01.png"
    for threshold, count in ((0, 3), (1, 0)):
        done = regraft("predict", several_run.path, image, "--json", "--threshold", threshold)
        assert len(json.loads(done.stdout)["labels"]) == count
    done = regraft("predict", several_run.path, image, "--json", "--top", 3, "--min-precision", 0.9)
    found = {one["label"]: one["threshold"] for one in json.loads(done.stdout)["top"]}
    val = several_run.label_predictions.part("val")
    for column, name in enumerate(val.classes):
        said = val.probabilities[:, column] >= found[name]
        assert val.indicators[said, column].mean() >= 0.9


def test_unlike_images_have_no_labels(several_run: Run, several_labels: Path) -> None:
    done = regraft("predict", several_run.path, several_labels.parent / "01.png", "--json", "--ood-rate", 0.9)
    row = json.loads(done.stdout)
    assert row["out_of_distribution"] == (row["labels"] is None)
    assert row["ood_p_value"] > 0


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--min-accuracy", "0.9"), "one class"),
        (("--coverage", "0.9"), "one class"),
        (("--threshold", "0.5", "--min-precision", "0.5"), "expected one of them"),
    ],
)
def test_what_needs_one_class_is_refused(flags: tuple[str, ...], words: str, several_run: Run, tmp_path: Path) -> None:
    done = regraft("predict", several_run.path, __file__, *flags)
    assert done.returncode == 2
    assert words in done.stderr


def test_a_threshold_needs_several_labels(run: Path) -> None:
    done = regraft("predict", run, __file__, "--threshold", "0.5")
    assert done.returncode == 2
    assert "any number of labels" in done.stderr
