from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from regraft.cache import Cache
from regraft.data.augmentation_options import Augmentation
from regraft.data.dataset import Dataset
from regraft.data.pixel_cache import StreamedPixels, load_pixels
from regraft.models.classifier import Classifier, build
from regraft.training.callbacks import NullReporter
from regraft.training.feature_cache import predict_logits, run_prefix
from regraft.training.live_prefix import LiveActivations
from regraft.training.prefix_backend import TorchBackend

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model() -> Classifier:
    return build(classes=("a", "b"), image_size=32)


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("boundary", [0, 9, 12, 19])
def test_the_plain_view_is_the_cached_one(
    model: Classifier, tmp_path: Path, boundary: int, precision: torch.dtype
) -> None:
    dataset = Dataset.from_arrays(IMAGES, ["a", "b", "a", "b", "a"])
    streamed = StreamedPixels(dataset, model.preprocessing)
    live = LiveActivations(streamed, TorchBackend(model, boundary, precision), Augmentation(), CPU)
    cache = Cache(tmp_path)
    cached = run_prefix(
        model,
        dataset,
        load_pixels(dataset, model.preprocessing, cache),
        TorchBackend(model, boundary, precision),
        cache,
        reporter=NullReporter(),
    )
    assert (len(live), live.views, live.boundary) == (5, 1, boundary)
    for ours, theirs in zip(live.batch(0, slice(1, 4)), cached.batch(0, slice(1, 4)), strict=True):
        assert torch.equal(ours, theirs)
        assert ours.dtype == theirs.dtype
        assert not ours.is_inference(), "backward would fail"
    assert torch.equal(predict_logits(model, live, precision), predict_logits(model, cached, precision))


def test_every_key_draws_a_new_view(model: Classifier) -> None:
    dataset = Dataset.from_arrays(IMAGES, ["a", "b", "a", "b", "a"])
    streamed = StreamedPixels(dataset, model.preprocessing)
    live = LiveActivations(streamed, TorchBackend(model, 9, torch.float32), Augmentation(), CPU)
    chosen = np.array([3, 1])
    first, again, other = (live.sample(chosen, key).values for key in (7, 7, 8))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.shape == (2, *model.stages[8].shape)
