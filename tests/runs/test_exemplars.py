"""Features that a run keeps, from which it grows where its images are gone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from terminal import csv_rows

import regraft as library
from regraft.config import load_config
from regraft.errors import RunError, UsageError
from regraft.runs.exemplars import EXEMPLARS, captured, choose, moved_to_means, number_of, read_exemplars
from regraft.runs.resume import resume
from regraft.runs.train import train_from


@pytest.fixture(scope="module")
def without_images(squares_run: library.Run, tmp_path_factory: pytest.TempPathFactory) -> library.Run:
    """The run on a machine without its images."""
    folder = tmp_path_factory.mktemp("copied") / "run"
    shutil.copytree(squares_run.path, folder)
    (folder / "source.json").write_text(json.dumps({"data": str(folder.parent / "gone")}))
    return library.load(folder)


@pytest.fixture(scope="module")
def grown(without_images: library.Run, yellow_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> library.Run:
    out = tmp_path_factory.mktemp("grown") / "run"
    return train_from(yellow_folder, load_config(overrides={"run.from_run": str(without_images.path)}), out)


def test_the_features_are_those_that_the_head_reads(squares_run: library.Run, squares_folder: Path) -> None:
    found = read_exemplars(squares_run.path)
    assert found is not None
    rows = {row["sha256"]: row for row in csv_rows(squares_run.path / "split.csv")}
    assert {part: found.parts.count(part) for part in ("train", "val", "test")} == {"train": 18, "val": 9, "test": 9}
    assert [rows[sha256]["label"] for sha256 in found.sha256s] == list(found.labels)
    assert [rows[sha256]["part"] for sha256 in found.sha256s] == list(found.parts)
    assert (found.stored.weights == 1).all()
    head, stored = squares_run.classifier.head, squares_run.predictions
    with torch.inference_mode():
        said = head.probabilities(head(torch.from_numpy(found.stored.features))).numpy()
    of_path = dict(zip(stored.ids, stored.probabilities, strict=True))
    for sha256, part, probabilities in zip(found.sha256s, found.parts, said, strict=True):
        if part != "train":
            assert probabilities == pytest.approx(of_path[rows[sha256]["path"]], abs=5e-3)  # half precision


def test_a_class_is_added_without_the_images_of_the_others(
    without_images: library.Run, squares_run: library.Run, grown: library.Run
) -> None:
    assert grown.classes == ("blue", "green", "red", "yellow")
    assert grown.history == []
    comparison = grown.metrics["earlier_run"]["comparison"]
    assert (comparison["part"], comparison["count"]) == ("test", 9)
    assert comparison["after"] >= comparison["before"] - 0.34
    assert grown.metrics["data"]["counts"]["train"]["blue"] == 6
    assert any("features of 36 replace them" in note for note in grown.metrics["data"]["notes"])
    before, after = squares_run.classifier.backbone.state_dict(), grown.classifier.backbone.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert grown.classifier.ood is not None
    assert (grown.path / "report.html").is_file()
    # The next generation has the features of all.
    again = read_exemplars(grown.path)
    assert again is not None
    assert sorted(set(again.labels)) == list(grown.classes)
    assert len(again.sha256s) == 36 + 8


def test_classes_are_merged_without_images(without_images: library.Run, tmp_path: Path) -> None:
    run = library.change_classes(without_images, merge={"cold": ["blue", "green"]}, out=tmp_path / "run")
    assert run.classes == ("cold", "red")
    assert run.metrics["test"]["count"] == 9
    assert run.metrics["data"]["counts"]["train"] == {"cold": 12, "red": 6}


def test_renamed_runs_keep_them(squares_run: library.Run, tmp_path: Path) -> None:
    run = library.change_classes(squares_run, rename={"red": "azure"}, out=tmp_path / "run")
    before, after = read_exemplars(squares_run.path), read_exemplars(run.path)
    assert before is not None
    assert after is not None
    assert np.array_equal(before.stored.features, after.stored.features)
    assert [label.replace("azure", "red") for label in after.labels] == list(before.labels)


def test_a_run_without_features_forgets_and_says_so(
    without_images: library.Run, yellow_folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(without_images.path, tmp_path / "run")
    (tmp_path / "run" / EXEMPLARS).write_bytes(b"damaged")
    with pytest.raises(RunError, match="is damaged"):
        read_exemplars(tmp_path / "run")
    (tmp_path / "run" / EXEMPLARS).unlink()
    settings = {"run.from_run": str(tmp_path / "run"), "run.keep_images": "all"}
    with pytest.raises(UsageError, match="cannot be read"):
        train_from(yellow_folder, load_config(overrides=settings), tmp_path / "grown")


def test_layers_below_the_head_must_stay(without_images: library.Run, yellow_folder: Path, tmp_path: Path) -> None:
    settings = {"run.from_run": str(without_images.path), "training.head_optimizer": "adam"}
    with pytest.raises(UsageError, match="stored features suffice only"):
        train_from(yellow_folder, load_config(overrides=settings), tmp_path / "grown")
    assert not (tmp_path / "grown").exists()


def test_an_interrupted_growth_is_resumed(grown: library.Run, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(grown.path, copy)
    (copy / "metrics.json").unlink()
    assert resume(copy).metrics["test"]["accuracy"] == grown.metrics["test"]["accuracy"]
    assert (copy / "predictions.csv").read_bytes() == (grown.path / "predictions.csv").read_bytes()


def test_the_choice_is_bounded_and_has_every_class(squares_run: library.Run) -> None:
    labels = np.repeat([0, 1, 2], [50, 3, 7])
    rows = choose(labels, 5)
    assert np.bincount(labels[rows]).tolist() == [5, 3, 5]
    assert np.array_equal(rows, np.sort(rows))
    assert np.array_equal(rows, choose(labels, 5))
    model = squares_run.classifier
    assert number_of(model, 0) == 0
    assert 2 * 2 * 3 * model.head.features * number_of(model, 10**9) <= 16_000_000


def test_rows_that_are_kept_have_the_mean_of_their_class() -> None:
    rng = np.random.default_rng(0)
    labels, weights = rng.integers(0, 3, 60), rng.uniform(1, 3, 60).astype(np.float32)
    features = torch.from_numpy(rng.normal(size=(60, 4)).astype(np.float32))
    chosen = choose(labels, 4)
    moved = moved_to_means(features, labels, weights, chosen)
    for label in range(3):
        all_rows, kept = labels == label, labels[chosen] == label
        expected = np.average(features.numpy()[all_rows], axis=0, weights=weights[all_rows])
        np.testing.assert_allclose(
            np.average(moved.numpy()[kept], axis=0, weights=weights[chosen][kept]), expected, atol=1e-5
        )
        steps = (moved - features[chosen]).numpy()[kept]
        np.testing.assert_allclose(steps, np.broadcast_to(steps[0], steps.shape), atol=1e-5)  # nothing else changes
    everything = moved_to_means(features, labels, weights, np.arange(60))
    np.testing.assert_allclose(everything.numpy(), features.numpy(), atol=1e-5)


def test_features_are_captured_in_order(squares_run: library.Run, squares_folder: Path) -> None:
    model, files = squares_run.classifier, sorted(squares_folder.glob("blue/*.png"))[:4]
    with captured(model, np.array([1, 3])) as found:
        squares_run.predict(files)
    assert len(found) == 2
    with captured(model, np.array([0])) as alone:
        squares_run.predict(files[3])
    assert torch.equal(found[1], alone[0])
    assert not model.head.classifier._forward_pre_hooks
