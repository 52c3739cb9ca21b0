"""What the head reads of held-out images, kept in the cache, so that another head on the same layers has it at once.

Input: a model and images. Output: the same predictions as without the cache. The features are float32, as predictions
compute them; the activations that a training keeps have its own precision.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

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
from regraft.training.prefix_backend import TorchBackend
from regraft.training.prefix_key import prefix_key, taps_key

#: Batches that are predicted from their files whatever the cache has, so that the time of an image is measured.
TIMED = 2
#: Batches of which the features are in memory at once.
_TOGETHER = 128


@dataclass
class Timed:
    """How many images were predicted from their files, and in how many seconds."""

    count: int = 0
    seconds: float = 0.0

    @contextmanager
    def images(self, count: int) -> Iterator[None]:
        """A context in which so many more are."""
        started = time.perf_counter()
        yield
        self.count += count
        self.seconds += time.perf_counter() - started


def predict_with_cache(
    model: Classifier, dataset: Dataset, cache: Cache, *, progress: Callable[[int, int], None]
) -> tuple[SamplePredictions, Timed]:
    """As `predict_samples`, and how long those images took that were predicted from their files.

    These are the first ones, and all of a batch of which the cache lacks one. The head reads features as they are,
    without attention.
    """
    end, width, count, timed = len(model.stages), model.head.features, len(dataset), Timed()
    if not count or not cache.make_room(4 * width * count):
        with timed.images(count):
            return predict_samples(model, dataset, progress=progress), timed
    key = {
        **prefix_key(model, end, torch.float32, TorchBackend(model, end, torch.float32).version),
        **taps_key(model, end),
        "threads": torch.get_num_threads(),
    }
    table = cache.table("features", key, (width,), np.float32)
    keys = collect_keys((cache_key(sha256) for sha256 in dataset.table.sha256s()), count)
    numbers, places, pieces = table.find(keys), list[np.ndarray](), list[SamplePredictions]()
    for rows, is_known in _stretches(numbers >= 0):
        part = dataset.with_samples(dataset.table.take(rows))
        if is_known:
            pieces.append(predict_features(model, torch.from_numpy(table.read(numbers[rows])), part))
            progress(int(rows[-1]) + 1, count)
        else:

            def report(done: int, _: int, before: int = int(rows[0])) -> None:
                progress(before + done, count)

            with timed.images(len(rows)), _captured(model.head) as found:
                pieces.append(predict_samples(model, part, progress=report))
            new = np.flatnonzero(numbers[rows] < 0)
            with suppress(OSError):  # on a full disk nothing is kept
                table.append(keys[rows[new]], torch.cat(found).numpy()[new])
        places.append(rows)
    return merge_predictions(dataset, pieces, places), timed


def _stretches(is_known: np.ndarray) -> Iterator[tuple[np.ndarray, bool]]:
    """Numbers of consecutive images, whole batches, and whether all of them are known; the first ones are not."""
    batches = np.split(np.arange(len(is_known)), range(BATCH, len(is_known), BATCH))
    known = [number >= TIMED and bool(is_known[rows].all()) for number, rows in enumerate(batches)]
    for value, run in itertools.groupby(zip(known, batches, strict=True), key=lambda pair: pair[0]):
        stretch = [rows for _, rows in run]
        for start in range(0, len(stretch), _TOGETHER):
            yield np.concatenate(stretch[start : start + _TOGETHER]), value


@contextmanager
def _captured(head: Head) -> Iterator[list[torch.Tensor]]:
    """A list that gets what the head's layers read meanwhile, float32 (n, F) each, in order."""
    found = list[torch.Tensor]()
    handle = head.layers.register_forward_pre_hook(lambda _, inputs: found.append(inputs[0].detach().cpu().clone()))
    try:
        yield found
    finally:
        handle.remove()
