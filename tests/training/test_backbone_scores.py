from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import regraft
from regraft.cache import Cache
from regraft.data.augmentation_options import Augmentation
from regraft.data.dataset import Split
from regraft.training import backbone_scores
from regraft.training.backbone_scores import BackboneScore, features_of, score_head, stratified_order
from regraft.training.callbacks import NullReporter
from regraft.training.linear_head import held_out_path
from regraft.training.options import TrainingOptions
from regraft.training.trainer import train


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_every_first_part_has_the_shares_of_the_classes(seed: int) -> None:
    labels = np.random.default_rng(seed).choice(3, size=97, p=[0.6, 0.3, 0.1])
    order = stratified_order(labels, seed=seed)
    assert sorted(order.tolist()) == list(range(97))
    shares = np.bincount(labels) / 97
    for count in range(1, 98):
        counts = np.bincount(labels[order[:count]], minlength=3)
        assert np.abs(counts - count * shares).max() <= 1
    assert order.tolist() == stratified_order(labels, seed=seed).tolist()
    assert order.tolist() != stratified_order(labels, seed=seed + 1).tolist()


def test_features_are_the_inputs_of_the_head_and_the_training_finds_them(
    squares_split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = regraft.build("efficientnet_lite0", classes=squares_split.classes, image_size=32)
    options = TrainingOptions(finetune_epochs=1, views=1, precision="off", batch_size=8)
    cache, scratch = Cache(tmp_path / "cache"), Cache(tmp_path / "scratch")
    train_part, reporter = squares_split.train, NullReporter()
    features = features_of(model, train_part, squares_split, options, Augmentation(), cache, scratch, reporter)
    pixels = [model.preprocessing(train_part.source(sample)).copy() for sample in train_part.samples]
    batch = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2)
    with torch.inference_mode():
        expected = model.forward_tail(model.activations(batch, len(model.stages)), len(model.stages))
    torch.testing.assert_close(features, expected, atol=2e-3, rtol=2e-3)

    passed: list[int] = []

    class Counting:
        def __init__(self, *arguments: object) -> None:
            self.backend = make(*arguments)  # type: ignore[arg-type]
            self.boundary, self.precision, self.version = (
                self.backend.boundary, self.backend.precision, self.backend.version,
            )  # fmt: skip

        def __call__(self, pixels: torch.Tensor) -> list[torch.Tensor]:
            passed.append(len(pixels))
            return self.backend(pixels)

    from regraft.training import data

    make = data.make_backend
    monkeypatch.setattr(data, "make_backend", Counting)
    train(model, squares_split, cache=cache, **asdict(options))
    assert sum(passed) == len(squares_split.val)  # the training images were not passed again


def test_a_head_that_can_tell_the_classes_scores_better_than_one_that_cannot() -> None:
    rng = np.random.default_rng(0)
    labels, fold = np.arange(90) % 3, np.arange(90) // 3 % 5
    noise = torch.from_numpy(rng.normal(size=(90, 8))).float()
    clear = noise.clone()
    clear[np.arange(90), labels] += 6
    good, bad = (score_head(features, labels, fold, ("a", "b", "c"), "none") for features in (clear, noise))
    assert good.accuracy > 0.95 > 0.6 > bad.accuracy
    assert good.loss < 0.3 < 0.9 < bad.loss < 1.5
    weighted = score_head(noise, labels, fold, ("a", "b", "c"), {"b": 50.0})
    assert weighted.loss > bad.loss
    assert bad.is_beaten_by(good)
    assert not good.is_beaten_by(bad)
    assert good.losses.mean() == pytest.approx(good.loss)


@pytest.mark.parametrize(("images", "is_enough"), [(120, True), (90, False)])
def test_a_first_fold_with_enough_images_says_which_penalties_the_others_try(
    images: int, is_enough: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[int] = []

    def counted(*arguments: Any, **options: Any) -> Iterator[tuple[torch.Tensor, float]]:
        tried.append(0)
        for one in held_out_path(*arguments, **options):
            tried[-1] += 1
            yield one

    rng = np.random.default_rng(0)
    labels, fold = np.arange(3 * images) % 3, np.arange(3 * images) // 3 % 3
    features = torch.from_numpy(rng.normal(size=(3 * images, 8))).float()
    features[np.arange(3 * images), labels] += 1
    monkeypatch.setattr(backbone_scores, "held_out_path", counted)
    score = score_head(features, labels, fold, ("a", "b", "c"), "none")
    assert tried[0] > 3
    assert (max(tried[1:]) <= 3) == is_enough
    monkeypatch.setattr(backbone_scores, "ENOUGH_IMAGES", 10**6)
    on_all = score_head(features, labels, fold, ("a", "b", "c"), "none")
    assert score.l2 == on_all.l2
    assert score.loss == pytest.approx(on_all.loss, rel=1e-3)


def test_only_the_first_fold_says_which_penalties_are_tried() -> None:
    rng = np.random.default_rng(0)
    labels, fold = np.arange(480) % 3, np.repeat([0, 1, 2, 3], [30, 150, 150, 150])
    features = torch.from_numpy(rng.normal(size=(480, 8))).float()
    # the first fold wants strong penalties
    features[np.arange(480), labels] += torch.from_numpy(np.where(fold == 0, -1.0, 3.0)).float()
    score = score_head(features, labels, fold, ("a", "b", "c"), "none")
    assert np.isfinite(score.losses).all()


def test_a_difference_within_its_standard_error_does_not_count() -> None:
    losses = np.random.default_rng(0).uniform(size=100)
    score = BackboneScore(accuracy=1.0, loss=0.5, l2=1.0, losses=losses)
    by_chance = np.where(np.arange(100) % 2, 1.0, -1.0)  # with a standard error of 0.1005
    for mean, is_beaten in ((0.09, False), (0.11, True)):
        other = BackboneScore(accuracy=1.0, loss=0.5 + mean, l2=1.0, losses=losses + by_chance + mean)
        assert other.is_beaten_by(score) is is_beaten
        assert not score.is_beaten_by(other)
    assert not score.is_beaten_by(score)
