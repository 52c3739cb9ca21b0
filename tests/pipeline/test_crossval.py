from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import regraft
from regraft.config import load_config
from regraft.data.split import bundle_ids
from regraft.errors import DataError, UsageError
from regraft.pipeline import crossval
from regraft.pipeline.demo import demo_images
from regraft.training.out_of_fold import out_of_fold
from regraft.training.progress import Silence

SMALL = load_config(None, ["model.image_size=64"])


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty real solar cells a class, one of them twice."""
    root = tmp_path_factory.mktemp("cells")
    counts = {"functional": 0, "defective": 0}
    for line in (demo_images() / "labels.csv").read_text().splitlines():
        name, probability, _ = line.split()
        label = {0.0: "functional", 1.0: "defective"}.get(float(probability))
        if label and counts[label] < 40:
            counts[label] += 1
            (root / label).mkdir(exist_ok=True)
            Image.open(demo_images() / name).resize((96, 96)).save(root / label / Path(name).name)
    first = sorted((root / "defective").iterdir())[0]
    (root / "defective" / "copy.png").write_bytes(first.read_bytes())
    return root


@pytest.fixture(scope="module")
def found(cells: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[regraft.CrossValidation, Path]:
    out = tmp_path_factory.mktemp("out") / "folds"
    return regraft.cross_validate(cells, 4, repeats=2, config=SMALL, out=out), out


def test_every_image_is_judged_once_by_a_head_without_it(found, cells, monkeypatch):
    result, _ = found
    assert result.accuracies.shape == result.macro_f1s.shape == (2, 4)
    assert len(set(result.predictions.ids)) == len(result.predictions) == 81
    assert 0.6 < result.accuracy < 1
    low, high = result.accuracy_interval
    assert low < result.accuracy < high
    # What is judged did not take part: with labels that say nothing, nothing is known.
    monkeypatch.setattr(
        crossval,
        "out_of_fold",
        lambda features, labels, fold, listener, *, classes, balanced: _checked(
            features, labels, fold, listener, classes
        ),
    )
    regraft.cross_validate(cells, 4, config=SMALL)


def _checked(features, labels, fold, listener, classes):
    told = out_of_fold(features, labels, fold, listener, classes=classes)
    chosen = fold == 0
    other = labels.copy()
    other[chosen] = 1 - other[chosen]  # what the held-out images are called must not change what is said of them
    again = out_of_fold(features, other, fold, listener, classes=classes)
    assert np.array_equal(told[chosen], again[chosen])
    assert not np.array_equal(told[~chosen], again[~chosen])
    return told


def test_balanced_classes_find_more_of_a_rare_one():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], [180, 20])
    features = torch.from_numpy(rng.normal(labels[:, None] * 1.2, 1, (200, 2))).float()
    fold = np.arange(200) % 5
    found = [
        (out_of_fold(features, labels, fold, Silence(), classes=2, balanced=balanced).argmax(1)[labels == 1] == 1).sum()
        for balanced in (False, True)
    ]
    assert found[1] > found[0]


def test_copies_share_a_fold(cells):
    dataset = regraft.scan(cells)
    folds = crossval.fold_numbers(dataset, 4)
    ids = bundle_ids(dataset.samples)
    for number in np.unique(ids):
        assert len(set(folds[ids == number])) == 1


def test_what_is_written(found):
    result, out = found
    assert {file.name for file in out.iterdir()} == {
        "crossval.json", "predictions.csv", "label_errors.csv", "confusion_matrix.png"
    }  # fmt: skip
    value = json.loads((out / "crossval.json").read_text())
    assert value["accuracy"] == result.accuracy
    assert value["repeats"] == 2
    assert len(value["fold_accuracies"][1]) == 4
    rows = list(csv.DictReader((out / "label_errors.csv").read_text().splitlines()))
    assert [row["path"] for row in rows] == [path for path, *_ in result.suspects]
    assert regraft.Predictions.read_csv(out / "predictions.csv").labels.tolist() == result.predictions.labels.tolist()


def test_the_same_again(found, cells):
    result, _ = found
    again = regraft.cross_validate(cells, 4, repeats=2, config=SMALL)
    assert np.array_equal(again.accuracies, result.accuracies)
    assert np.array_equal(again.predictions.probabilities, result.predictions.probabilities)
    assert again.suspects == result.suspects


def test_what_cannot_be_done(cells, found, tmp_path):
    _, out = found
    with pytest.raises(UsageError, match="at least 2 folds"):
        regraft.cross_validate(cells, 1)
    with pytest.raises(UsageError, match="nothing is overwritten"):
        regraft.cross_validate(cells, 4, config=SMALL, out=out)
    rng = np.random.default_rng(0)
    for label, count in (("many", 12), ("few", 3)):
        (tmp_path / label).mkdir()
        for i in range(count):
            Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(tmp_path / label / f"{i}.png")
    with pytest.raises(DataError, match=r"1 class has fewer than 5 images that may be divided: few\. Take fewer folds"):
        regraft.cross_validate(tmp_path, 5, config=SMALL)
