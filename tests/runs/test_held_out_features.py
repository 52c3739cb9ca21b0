"""Another head on the same frozen layers has the features of held-out images from the cache, and says the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import regraft
from regraft.cache import Cache, Table
from regraft.data.dataset import Dataset
from regraft.models.classifier import Classifier
from regraft.models.ood import fit_ood
from regraft.models.weights import WeightsRecord
from regraft.runs import held_out_features
from regraft.runs.held_out_features import TIMED, keeps_features, predict_with_cache
from regraft.runs.sample_predictions import BATCH, predict_samples

#: Images: the timed batches, three more, and a part of one.
COUNT = BATCH * (TIMED + 3) + 7


@pytest.fixture(scope="module")
def noise() -> Dataset:
    rng = np.random.default_rng(0)
    pixels = [rng.integers(0, 256, (32, 32, 3), dtype=np.uint8) for _ in range(COUNT)]
    return Dataset.from_arrays(pixels, ["a", "b"] * (COUNT // 2) + ["a"] * (COUNT % 2))


@pytest.fixture
def model() -> Classifier:
    made = regraft.build("mobilenetv2", classes=("a", "b"), image_size=32, weights="none")
    features = torch.randn(40, made.head.features, generator=torch.Generator().manual_seed(0)).abs()
    made.ood = fit_ood(features, torch.arange(40) % 2)
    return made.eval()


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images were predicted from their files, call by call."""
    counts, run = list[int](), held_out_features.predict_samples

    def counted(model: Classifier, part: Dataset, **options: Any) -> Any:
        counts.append(len(part))
        return run(model, part, **options)

    monkeypatch.setattr(held_out_features, "predict_samples", counted)
    return counts


def other_head(model: Classifier) -> None:
    with torch.no_grad():
        model.head.classifier.weight.normal_(generator=torch.Generator().manual_seed(1))


def test_another_head_reads_the_cache_and_gives_the_same_bits(
    model: Classifier, noise: Dataset, ran: list[int], tmp_path: Path
) -> None:
    seen = list[int]()
    first, milliseconds = predict_with_cache(
        model, noise, Cache(tmp_path), progress=lambda done, total: seen.append(done)
    )
    assert ran == [TIMED * BATCH, COUNT - TIMED * BATCH]
    assert milliseconds > 0
    assert seen == list(range(1, COUNT + 1))
    assert np.array_equal(first.probabilities, predict_samples(model, noise).probabilities)

    other_head(model)
    ran.clear()
    seen.clear()
    second, milliseconds = predict_with_cache(
        model, noise, Cache(tmp_path), progress=lambda done, total: seen.append(done)
    )
    plain = predict_samples(model, noise)
    assert ran == [TIMED * BATCH]
    assert milliseconds > 0
    assert (seen == sorted(seen), seen[-1]) == (True, COUNT)
    assert not np.array_equal(second.probabilities, first.probabilities)
    assert np.array_equal(second.probabilities, plain.probabilities)
    assert plain.ood_distances is not None
    assert np.array_equal(second.ood_distances, plain.ood_distances)
    assert second.predictions.ids == plain.predictions.ids


def test_a_batch_with_a_new_image_runs_from_files(
    model: Classifier, noise: Dataset, ran: list[int], tmp_path: Path
) -> None:
    new = BATCH * (TIMED + 1) + 5
    known = noise.with_samples(noise.table.take(np.delete(np.arange(COUNT), new)))
    predict_with_cache(model, known, Cache(tmp_path), progress=lambda done, total: None)
    ran.clear()
    predicted, _ = predict_with_cache(model, noise, Cache(tmp_path), progress=lambda done, total: None)
    assert ran == [TIMED * BATCH, BATCH]
    assert np.array_equal(predicted.probabilities, predict_samples(model, noise).probabilities)
    ran.clear()
    predict_with_cache(model, noise, Cache(tmp_path), progress=lambda done, total: None)
    assert ran == [TIMED * BATCH]


def test_other_weights_below_the_head_have_other_features(
    model: Classifier, noise: Dataset, ran: list[int], tmp_path: Path
) -> None:
    predict_with_cache(model, noise, Cache(tmp_path), progress=lambda done, total: None)
    with torch.no_grad():
        next(model.backbone.parameters()).mul_(1.5)
    ran.clear()
    predicted, _ = predict_with_cache(model, noise, Cache(tmp_path), progress=lambda done, total: None)
    assert sum(ran) == COUNT
    assert np.array_equal(predicted.probabilities, predict_samples(model, noise).probabilities)


@pytest.mark.parametrize("fault", ["no room", "full disk", "no table", "table is gone"])
def test_without_a_cache_that_works_everything_is_predicted(
    fault: str, model: Classifier, noise: Dataset, ran: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, cache = predict_samples(model, noise), Cache(tmp_path, limit=1000 if fault == "no room" else 10**9)

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    if fault == "table is gone":
        predict_with_cache(model, noise, cache, progress=lambda done, total: None)
    failing = {"full disk": (Table, "append"), "no table": (Cache, "table"), "table is gone": (Table, "read")}
    if fault in failing:
        monkeypatch.setattr(*failing[fault], fail)
    for _ in range(2):
        ran.clear()
        predicted, _ = predict_with_cache(model, noise, cache, progress=lambda done, total: None)
        assert sum(ran) == COUNT
        assert np.array_equal(predicted.probabilities, expected.probabilities)


def test_a_full_cache_that_knows_the_images_is_read(
    model: Classifier, noise: Dataset, ran: list[int], tmp_path: Path
) -> None:
    predict_with_cache(model, noise, Cache(tmp_path), progress=lambda done, total: None)
    ran.clear()
    predict_with_cache(model, noise, Cache(tmp_path, limit=1000), progress=lambda done, total: None)
    assert ran == [TIMED * BATCH]


def test_hooks_and_attention_are_not_kept(model: Classifier) -> None:
    assert keeps_features(model)
    handle = model.backbone.register_forward_hook(lambda module, inputs, outputs: None)
    assert not keeps_features(model)
    handle.remove()
    assert keeps_features(model)
    pooled = regraft.build("vit_s16", classes=("a", "b"), image_size=32, weights="none", pooling="attention")
    assert not keeps_features(pooled)


def test_no_images_are_no_predictions(model: Classifier, noise: Dataset, tmp_path: Path) -> None:
    none = noise.with_samples(noise.table.take(np.arange(0)))
    predicted, _ = predict_with_cache(model, none, Cache(tmp_path), progress=lambda done, total: None)
    assert len(predicted) == 0


def test_a_second_training_predicts_few_images_from_files(
    noise: Dataset, ran: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REGRAFT_CACHE", str(tmp_path / "cache"))
    parts = regraft.split(noise, train=0.3, val=0.0, test=0.7, seed=0)
    held_out = len(parts["test"])
    assert held_out > (TIMED + 1) * BATCH

    def train(name: str, **options: Any) -> regraft.Run:
        made = regraft.build("mobilenetv2", classes=parts.classes, image_size=32, weights="none")
        made.weights = WeightsRecord("file")  # a network of random weights would train as a whole
        return regraft.train(made, parts, out=tmp_path / name, **{"finetune_epochs": 0, **options})

    train("first")
    assert sum(ran) == held_out
    ran.clear()
    second = train("second", label_smoothing=0.2)
    assert sum(ran) == TIMED * BATCH
    assert second.metrics["time"]["predict_ms_per_image"] > 0
    ran.clear()
    without = train("without", label_smoothing=0.2, feature_cache="none")
    train("tuned", keep_finetuned="always", finetune_epochs=1)
    assert not ran
    assert np.array_equal(second.predictions.probabilities, without.predictions.probabilities)
