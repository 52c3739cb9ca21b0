"""What the head reads of held-out images, kept in the cache, so that another head on the same layers has it at once.

Input: a model and images. Output: the same predictions as without the cache. The features are float32, as predictions
compute them; the activations that a training keeps have its own precision.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

import numpy as np
import torch

from regraft.cache import Cache, cache_key
from regraft.data.dataset import Dataset
from regraft.key_index import collect_keys
from regraft.models.classifier import Classifier
from regraft.models.head import Head
from regraft.runs.sample_predictions import (
    BATCH,
    SamplePredictions,
    merge_predictions,
    predict_features,
    predict_samples,
)
from regraft.training.callbacks import Training
from regraft.training.options import TrainingOptions
from regraft.training.prefix_backend import TorchBackend
from regraft.training.prefix_key import prefix_key, taps_key
from regraft.training.storage import free_disk

#: Batches that are predicted from their files whatever the cache has, so that the time of an image is measured.
TIMED = 2
#: Batches of which the features are in memory at once.
_TOGETHER = 128


def cache_for_features(options: TrainingOptions, training: Training) -> Cache | None:
    """The cache for features after a training; None where no other training can have the same layers, or by options."""
    if training.finetuned or training.cache_too_small or options.feature_cache not in ("auto", "disk"):
        return None
    return Cache(limit=int(options.cache_gb * 1e9)) if options.cache_gb else None


def keeps_features(model: Classifier) -> bool:
    """Whether the inputs of the head's layers depend on nothing but images and weights below the head.

    Attention has weights of its own, and hooks may change what a layer gives.
    """
    hooks = (m._forward_hooks or m._forward_pre_hooks for m in model.backbone.modules())
    return model.head.attention is None and not any(hooks)


def predict_with_cache(
    model: Classifier, dataset: Dataset, cache: Cache, *, progress: Callable[[int, int], None]
) -> tuple[SamplePredictions, float]:
    """As `predict_samples`, and milliseconds for an image from its file, of the first ones.

    From their files are predicted the first images, and all of a batch of which the cache lacks one. For a model that
    `keeps_features`.
    """
    table, count, milliseconds = _Features(model, dataset, cache), len(dataset), 0.0
    places, pieces = list[np.ndarray](), list[SamplePredictions]()
    for rows, is_known in _stretches(table.is_known):
        part = dataset.with_samples(dataset.table.take(rows))
        if is_known and (features := table.read(rows)) is not None:
            pieces.append(predict_features(model, features, part))
            progress(int(rows[-1]) + 1, count)
        else:

            def report(done: int, _: int, before: int = int(rows[0])) -> None:
                progress(before + done, count)

            started = time.perf_counter()
            with _captured(model.head) as found:
                pieces.append(predict_samples(model, part, progress=report))
            if not places:
                milliseconds = 1000 * (time.perf_counter() - started) / len(rows)
            table.append(rows, found)
        places.append(rows)
    return (merge_predictions(dataset, pieces, places) if places else predict_samples(model, dataset)), milliseconds


class _Features:
    """The table of features, of which a fault costs time alone: what it does not have is predicted from files."""

    def __init__(self, model: Classifier, dataset: Dataset, cache: Cache) -> None:
        end, width = len(model.stages), model.head.features
        key = {
            **prefix_key(model, end, torch.float32, TorchBackend(model, end, torch.float32).version),
            **taps_key(model, end),
            "threads": torch.get_num_threads(),
            "instructions": torch.backends.cpu.get_cpu_capability(),
        }
        self.keys = collect_keys((cache_key(sha256) for sha256 in dataset.table.sha256s()), len(dataset))
        self.numbers, self.table, self.has_room = np.full(len(dataset), -1), None, False
        with suppress(OSError):
            if (known := cache.existing_table("features", key, (width,), np.float32)) is not None:
                self.numbers, self.table = known.find(self.keys), known
            missing = 4 * width * int((self.numbers < 0).sum())
            self.has_room = 2 * missing < free_disk(cache.root) and cache.make_room(missing)
            if self.has_room:
                self.table = cache.table("features", key, (width,), np.float32)

    @property
    def is_known(self) -> np.ndarray:
        """Whether there are features of each image, bool (N,)."""
        return self.numbers >= 0

    def read(self, rows: np.ndarray) -> torch.Tensor | None:
        """Features of these images, float32 (n, F); None if they are no longer there."""
        with suppress(OSError):
            if self.table is not None:
                return torch.from_numpy(self.table.read(self.numbers[rows])).clone()  # aligned as PyTorch's own
        return None

    def append(self, rows: np.ndarray, found: Sequence[torch.Tensor]) -> None:
        """Keep the features of these images, (1, F) each or more at once, unless there is no room."""
        new = np.flatnonzero(~self.is_known[rows])
        if self.table is None or not self.has_room or not len(new):
            return
        try:
            self.table.append(self.keys[rows[new]], torch.cat(list(found)).numpy()[new])
        except OSError:
            self.has_room = False


def _stretches(is_known: np.ndarray) -> Iterator[tuple[np.ndarray, bool]]:
    """Numbers of consecutive images, whole batches, and whether all of them are known; the first ones are not."""
    first = min(len(is_known), TIMED * BATCH)
    if first:
        yield np.arange(first), False
    starts = range(first, len(is_known), BATCH)
    batches = [np.arange(start, min(start + BATCH, len(is_known))) for start in starts]
    for known, run in itertools.groupby(batches, key=lambda rows: bool(is_known[rows].all())):
        stretch = list(run)
        for start in range(0, len(stretch), _TOGETHER):
            yield np.concatenate(stretch[start : start + _TOGETHER]), known


@contextmanager
def _captured(head: Head) -> Iterator[list[torch.Tensor]]:
    """A list that gets what the head's layers read meanwhile, float32 (n, F) each, in order."""
    found = list[torch.Tensor]()
    handle = head.layers.register_forward_pre_hook(lambda _, inputs: found.append(inputs[0].detach().cpu().clone()))
    try:
        yield found
    finally:
        handle.remove()
