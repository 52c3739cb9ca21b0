"""Evaluating and predicting with a run, a model or predictions."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import regraft
from regraft.errors import DataError, UsageError
from regraft.runs.evaluate import predict_dataset
from regraft.runs.run_images import split_rows
from regraft.runs.training_overlap import overlap_within


def test_stored_predictions_are_evaluated_without_data(squares_run: regraft.Run) -> None:
    assert regraft.evaluate(squares_run).to_json() == squares_run.metrics["test"]
    assert regraft.evaluate(squares_run, part="val").to_json() == squares_run.metrics["val"]
    assert regraft.evaluate(regraft.Predictions.from_arrays([0, 1], [[0.9, 0.1], [0.2, 0.8]])).accuracy == 1
    with pytest.raises(UsageError, match="needs labeled data"):
        regraft.evaluate(squares_run.classifier)


def test_data_may_lack_classes_but_not_have_new_ones(
    squares_run: regraft.Run, squares_folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(squares_folder / "red", tmp_path / "some" / "red")
    assert regraft.evaluate(squares_run, tmp_path / "some").count == 12
    shutil.copytree(squares_folder / "red", tmp_path / "some" / "pink")
    with pytest.raises(DataError, match="pink"):
        regraft.evaluate(squares_run, tmp_path / "some")


def test_images_that_trained_the_run_are_counted(
    squares_run: regraft.Run, squares_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part_of = {row["path"]: row["part"] for row in split_rows(squares_run.path)}
    (first, second), tests = ([p for p, part in part_of.items() if part == name][:2] for name in ("train", "test"))
    for name in (first, *tests):
        (tmp_path / "new" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(squares_folder / name, tmp_path / "new" / name)
    with Image.open(squares_folder / second) as image:  # nearly the same picture
        image.crop((0, 0, 39, 40)).resize((60, 60)).save(tmp_path / "new" / Path(second).parent / "again.png")
    overlap = regraft.evaluate(squares_run, tmp_path / "new").overlap
    assert overlap is not None
    assert (overlap.identical, overlap.near_duplicates, overlap.count, overlap.unchecked) == (1, 1, 2, "")
    (caution, *_) = regraft.evaluate(squares_run, tmp_path / "new").cautions()
    assert caution.startswith("2 of these images were used to train the model or to choose its settings (1 identical ")
    assert f"Without them it is {100 * overlap.accuracy:.1f} %" in caution

    copy = regraft.load(shutil.copytree(squares_run.path, tmp_path / "run"))
    (copy.path / "split.csv").write_text("path,label,part,sha256\n")  # a run that started from that run
    description = json.loads((copy.path / "model.json").read_text())
    description["weights"] |= {"source": "run", "name": str(squares_run.path)}
    (copy.path / "model.json").write_text(json.dumps(description))
    assert regraft.evaluate(copy.path, tmp_path / "new").overlap.identical == 1

    copy = regraft.load(shutil.copytree(squares_run.path, tmp_path / "moved"))
    (copy.path / "source.json").unlink()
    monkeypatch.setenv("REGRAFT_CACHE", str(tmp_path / "empty"))
    moved = regraft.evaluate(copy, tmp_path / "new").overlap
    assert (moved.identical, moved.near_duplicates) == (1, 0)
    assert "the run's images are not where they were" in moved.unchecked
    (copy.path / "split.csv").unlink()
    assert "could not be checked" in regraft.evaluate(copy, tmp_path / "new").cautions()[0]


def test_a_test_part_with_copies_of_training_images_is_evaluated_without_them_too(squares: regraft.Dataset) -> None:
    parts = [("train", "val", "test", "test")[i % 4] for i in range(len(squares))]
    samples = [dataclasses.replace(s, part=p) for s, p in zip(squares.samples, parts, strict=True)]
    samples[2] = dataclasses.replace(samples[2], sha256=samples[0].sha256)
    samples[3] = dataclasses.replace(samples[3], near_duplicate_group="same")
    samples[1] = dataclasses.replace(samples[1], near_duplicate_group="same")
    split = regraft.Split(squares.with_samples(samples))
    truth = np.eye(3)[split.test.labels]
    ids = tuple(s.path for s in split.test.samples)
    test = regraft.Predictions(ids, split.test.labels, truth, squares.classes, ("test",) * len(ids))
    overlap = overlap_within(split, test)
    assert overlap is not None
    assert (overlap.identical, overlap.near_duplicates, overlap.count, overlap.accuracy) == (1, 1, 22, 1.0)
    val = regraft.Predictions(
        tuple(s.path for s in split.val.samples), split.val.labels, np.eye(3)[split.val.labels], squares.classes,
        ("val",) * len(split.val),
    )  # fmt: skip
    assert overlap_within(split, val) is None


def test_evaluation_allows_as_many_pixels_as_the_scan(squares_folder: Path) -> None:
    dataset = regraft.scan(squares_folder)
    model = regraft.build("mobilenetv2", classes=dataset.classes, weights="none", image_size=32)
    assert len(predict_dataset(model, dataclasses.replace(dataset, max_pixels=1_600))) == len(dataset)
    with pytest.raises(DataError, match="more than 1,599 allowed"):
        predict_dataset(model, dataclasses.replace(dataset, max_pixels=1_599))


def test_predict_takes_an_array_a_batch_or_a_folder(squares_run: regraft.Run, tmp_path: Path) -> None:
    image = np.zeros((40, 50, 3), np.uint8)
    assert len(squares_run.predict(image)) == len(regraft.predict(squares_run, image)) == 1
    assert len(squares_run.predict(np.stack([image, image]))) == 2
    plots = squares_run.path / "plots"
    assert [p.source for p in squares_run.predict(plots)] == sorted(map(str, plots.glob("*.png")))
    with pytest.raises(UsageError, match="has no image"):
        regraft.predict(squares_run, [tmp_path])
