"""Runs with several labels grow: images without labels stay, new labels are not guessed, and labels are compared."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from terminal import csv_rows

from regraft.config import load_config
from regraft.data.dataset import Dataset, Sample, Split
from regraft.errors import UsageError
from regraft.evaluation.multilabel.predictions import MultilabelPredictions
from regraft.runs.earlier_comparison import _compare_labels
from regraft.runs.earlier_images import scan_with_earlier, with_decision
from regraft.runs.run import Run
from regraft.runs.train import train_from
from regraft.training.callbacks import NullReporter


class Messages(NullReporter):
    def __init__(self) -> None:
        self.texts: list[str] = []

    def on_message(self, text: str) -> None:
        self.texts.append(text)


COLORS = ("blue", "green", "red")


def write_labels(folder: Path, known: Sequence[str], count: int = 12) -> Path:
    """A manifest of new images with squares of all colors, which names these alone."""
    rng, rows = np.random.default_rng(7), []
    folder.mkdir()
    for number in range(count):
        labels, image = [color for color in COLORS if rng.random() < 0.5], rng.integers(90, 160, (32, 32, 3))
        for label in labels:
            top, left = rng.integers(0, 20, 2)
            image[top : top + 12, left : left + 12] = 40
            image[top : top + 12, left : left + 12, 2 - COLORS.index(label)] = 220
        Image.fromarray(image.astype(np.uint8)).save(folder / f"{number:02d}.png")
        rows.append((f"{number:02d}.png", "|".join(name for name in known if name in (*labels, "new"))))
    with (folder / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "label"), *rows])
    return folder / "labels.csv"


def settings(run: Run, **more: Any) -> dict[str, Any]:
    return {"run.from_run": str(run.path), "training.finetune_epochs": 0, "training.views": 1} | {
        key.replace("__", "."): value for key, value in more.items()
    }


def decided(run: Run, data: Path, messages: NullReporter | None = None, **more: Any) -> Dataset:
    config = with_decision(load_config(overrides=settings(run, **more)), data, messages or NullReporter())
    return scan_with_earlier(config, data, None, NullReporter())[0]


def test_new_images_of_the_same_labels_train_beside_all_earlier_ones(several_run: Run, tmp_path: Path) -> None:
    data = write_labels(tmp_path / "new", COLORS)
    run = train_from(data, load_config(overrides=settings(several_run)), tmp_path / "run")
    before = {row["sha256"]: (row["label"], row["part"]) for row in csv_rows(several_run.path / "split.csv")}
    assert "" in {label for label, _ in before.values()}  # images that have none of the colors
    rows = csv_rows(run.path / "split.csv")
    assert {r["sha256"]: (r["label"], r["part"]) for r in rows if r["path"].startswith("earlier/")} == before
    assert len(rows) == len(before) + 12
    comparison = run.metrics["earlier_run"]["comparison"]
    assert (comparison["part"], comparison["count"]) == ("test", several_run.metrics["test"]["count"])
    assert comparison["before"] == pytest.approx(several_run.evaluate_labels("test").mean_average_precision)
    assert [row["name"] for row in comparison["classes"]] == [*COLORS]
    page = (run.path / "report.html").read_text()
    assert "Compared with the earlier run" in page
    assert "AP before" in page


def test_a_new_label_is_not_denied_of_images_that_nobody_was_asked_about(several_run: Run, tmp_path: Path) -> None:
    data = write_labels(tmp_path / "new", (*COLORS, "new"))
    for keep in ("auto", "all"):
        with pytest.raises(UsageError, match=r"new: .* has this label, and nobody has said which images"):
            decided(several_run, data, run__keep_images=keep)
    alone = with_decision(load_config(overrides=settings(several_run, run__keep_images="none")), data, NullReporter())
    assert alone.run.keep_images == "none"


def test_a_label_that_no_new_image_has_is_said(several_run: Run, tmp_path: Path) -> None:
    messages = Messages()
    dataset = decided(several_run, write_labels(tmp_path / "new", ("green", "red")), messages)
    assert len(dataset) == 92
    assert "has blue, so all train as images without" in messages.texts[0]


def test_one_class_and_several_labels_do_not_train_together(
    several_run: Run, squares_run: Run, squares_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="--task multilabel"):
        decided(several_run, squares_folder, data__task="classification")
    data = write_labels(tmp_path / "new", COLORS)
    with pytest.raises(UsageError, match="--backbone"):
        decided(squares_run, data, data__task="multilabel")


def test_images_that_are_gone_are_said(several_run: Run, several_labels: Path, tmp_path: Path) -> None:
    old, run, data = tmp_path / "old", tmp_path / "run", write_labels(tmp_path / "new", COLORS)
    shutil.copytree(several_labels.parent, old)
    shutil.copytree(several_run.path, run)
    source = json.loads((run / "source.json").read_text())
    (run / "source.json").write_text(json.dumps({**source, "data": str(old / "labels.csv")}))
    (old / "00.png").write_bytes((data.parent / "00.png").read_bytes())
    dataset = decided(Run(run), data)
    assert len(dataset) == 79 + 12
    assert dataset.notes[-1].startswith("1 of 80 images of ")
    messages = Messages()
    shutil.rmtree(old)
    config = with_decision(load_config(overrides=settings(Run(run))), data, messages)
    assert config.run.keep_images == "none"
    assert "no run keeps the features of images with several labels" in messages.texts[-1]


def test_labels_of_both_runs_are_compared_by_content(tmp_path: Path) -> None:
    lines = ["path,label,part,sha256", *(f"{i},x,test,{i:064x}" for i in range(5)), f"5,x,train,{5:064x}"]
    (tmp_path / "split.csv").write_text("\n".join(lines) + "\n")
    old = np.array([[1, 0], [0, 1], [1, 1], [0, 0], [1, 0], [1, 0]], bool)
    thresholds = np.array([0.5, 0.5])
    said = np.array([[0.9, 0.1], [0.1, 0.2], [0.8, 0.3], [0.2, 0.1], [0.7, 0.1], [0.9, 0.1]])
    before = MultilabelPredictions(tuple("012345"), old, said, ("a", "b"), ("test",) * 6, thresholds)
    samples = tuple(Sample(f"new/{i}", "", f"{i:064x}", "test") for i in range(6))
    split = Split(Dataset("new", samples, ("b", "c"), task="multilabel"))
    new = np.array([[0, 1], [1, 0], [1, 0], [0, 0], [1, 0], [0, 1]], bool)  # the label b of image 4 is another one
    now = np.array([[0.1, 0.9], [0.8, 0.1], [0.7, 0.1], [0.6, 0.1], [0.9, 0.1], [0.1, 0.9]])
    after = MultilabelPredictions(tuple(s.path for s in samples), new, now, ("b", "c"), ("test",) * 6, thresholds)
    found = _compare_labels(tmp_path, before, split, after, "test")
    assert found is not None
    assert (found["count"], found["relabeled"]) == (4, 1)
    (b,) = found["classes"]  # c is new, and a is gone
    # Before, the answers for the images 1 and 2 were wrong; now that for image 3 is.
    assert (b["name"], b["count"], b["better"], b["worse"]) == ("b", 2, 2, 1)
    assert (b["before"], b["after"]) == (1.0, 1.0)
    assert _compare_labels(tmp_path, before.part("val"), split, after.part("val"), "val") is None
