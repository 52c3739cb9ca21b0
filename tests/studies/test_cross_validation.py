from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import regraft
from regraft.config import load_config
from regraft.data.split import fold_numbers, inseparable_set_ids
from regraft.errors import DataError, UsageError
from regraft.runs.demo import demo_images
from regraft.studies import cross_validation as module
from regraft.training import cross_val_predict as predict_module
from regraft.training import soft_labels
from regraft.training.cross_val_predict import cross_val_predict
from regraft.training.frozen_features import frozen_features
from regraft.training.linear_head import L2_VALUES, held_out_path
from regraft.training.soft_labels import CANDIDATES, Decision

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
def validated(cells: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[regraft.CrossValidation, Path]:
    out = tmp_path_factory.mktemp("out") / "folds"
    return regraft.cross_validate(cells, 4, repeats=2, config=SMALL, out=out), out


def test_every_image_is_predicted_once_by_a_head_fitted_without_it(validated, cells, monkeypatch):
    result, _ = validated
    assert result.accuracies.shape == result.macro_f1s.shape == (2, 4)
    assert len(set(result.predictions.ids)) == len(result.predictions) == 81
    assert 0.6 < result.accuracy < 1
    assert "4 folds, 81 images" in repr(result)
    low, high = result.accuracy_interval
    assert low < result.accuracy < high
    # The labels of held-out images must not change their predictions; they are in the heads that choose the strength.
    one_strength = partial(held_out_path, l2_values=L2_VALUES[4:5])
    monkeypatch.setattr("regraft.training.cross_val_predict.held_out_path", one_strength)
    monkeypatch.setattr(
        module,
        "cross_val_predict",
        lambda features, labels, fold, reporter, *, classes, class_weights, task, executor: _checked(
            features, labels, fold, reporter, classes
        ),
    )
    regraft.cross_validate(cells, 4, config=SMALL)


def _checked(features, labels, fold, reporter, classes):
    predicted = cross_val_predict(features, labels, fold, reporter, classes=classes)
    chosen = fold == 0
    other = labels.copy()
    other[chosen] = 1 - other[chosen]
    again = cross_val_predict(features, other, fold, reporter, classes=classes)
    assert np.array_equal(predicted[chosen], again[chosen])
    assert not np.array_equal(predicted[~chosen], again[~chosen])
    return predicted


def test_duplicates_share_a_fold(cells):
    dataset = regraft.scan(cells)
    folds = fold_numbers(dataset, 4)
    ids = inseparable_set_ids(dataset.samples)
    for number in np.unique(ids):
        assert len(set(folds[ids == number])) == 1


def test_files_hold_the_result(validated):
    result, out = validated
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


def test_cross_validation_is_deterministic(validated, cells):
    result, _ = validated
    again = regraft.cross_validate(cells, 4, repeats=2, config=SMALL)
    assert np.array_equal(again.accuracies, result.accuracies)
    assert np.array_equal(again.predictions.probabilities, result.predictions.probabilities)
    assert again.suspects == result.suspects


def test_wrong_arguments_and_too_few_images_are_refused(cells, validated, tmp_path):
    _, out = validated
    with pytest.raises(UsageError, match="at least 2 folds"):
        regraft.cross_validate(cells, 1)
    with pytest.raises(UsageError, match="nothing is overwritten"):
        regraft.cross_validate(cells, 4, config=SMALL, out=out)
    rng = np.random.default_rng(0)
    for label, count in (("many", 12), ("few", 3)):
        (tmp_path / label).mkdir()
        for i in range(count):
            Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(tmp_path / label / f"{i}.png")
    with pytest.raises(DataError, match=r"1 class has fewer than 5 images that can be divided: few\. Use fewer folds"):
        regraft.cross_validate(tmp_path, 5, config=SMALL)


def test_a_model_at_chance_accuses_no_label(squares: regraft.Dataset) -> None:
    guessed = squares.with_samples([replace(s, label=squares.classes[i % 3]) for i, s in enumerate(squares.samples)])
    result = regraft.cross_validate(guessed, 3, config=load_config(None, ["model.image_size=32"]))
    assert result.suspects == ()
    assert "not clearly better" in result.to_json()["label_errors_withheld"]


def test_images_without_labels(cells: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """None that shows a labeled image is used, and where they do not help, nothing changes."""
    labeled, others = tmp_path / "labeled", tmp_path / "others"
    for folder in sorted(cells.iterdir()):
        (labeled / folder.name).mkdir(parents=True)
        for i, file in enumerate(sorted(folder.iterdir())):
            place = labeled / folder.name if i < 12 else others / "any"
            place.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, place)
    shutil.copy(next((labeled / "defective").iterdir()), others / "copy.png")
    plain = regraft.cross_validate(labeled, 3, config=SMALL)
    result = regraft.cross_validate(labeled, 3, config=SMALL, unlabelled=others)
    said = result.to_json()["unlabelled"]
    assert plain.unlabeled is None
    assert said["left_out"]["copies of held-out images"] >= 1
    assert said["usable"] + sum(said["left_out"].values()) == said["found"]
    assert said["accuracy_without"] == plain.accuracy
    assert (said["folds"], 0 <= said["folds_used"] <= 3) == (3, True)
    assert said["compared"] == said["usable"]
    # Of more than can be compared, the features of others are not computed.
    asked: list[int] = []

    def features(model, dataset, *rest, **options):
        asked.append(len(dataset))
        return frozen_features(model, dataset, *rest, **options)

    with monkeypatch.context() as patch:
        patch.setattr(module, "frozen_features", features)
        patch.setattr(soft_labels, "MAX_IMAGES", 34)
        some = regraft.cross_validate(labeled, 3, config=SMALL, unlabelled=others).to_json()["unlabelled"]
        assert (some["compared"], sorted(asked)) == (10, [10, 24])
        patch.setattr(soft_labels, "MAX_LABELED", 20)
        with pytest.raises(UsageError, match="at most 20 labeled images, and the training has 24"):
            regraft.cross_validate(labeled, 3, config=SMALL, unlabelled=tmp_path / "nowhere")
    never = Decision(False, CANDIDATES[0], 0.1, 0.1, 1.0, 0.5, 0.5, 0.0, 0.0)
    monkeypatch.setattr(predict_module, "decide", lambda *args, **kwargs: never)
    same = regraft.cross_validate(labeled, 3, config=SMALL, unlabelled=others)
    np.testing.assert_array_equal(same.predictions.probabilities, plain.predictions.probabilities)
    with pytest.raises(UsageError, match="on this machine only"):
        regraft.cross_validate(labeled, 3, unlabelled=others, cluster="local")
