"""Score backbones on a part of the training images by cross-validation of the head alone.

Input: a model and images. Output: the inputs of its head, from the same cached activations that a training of this
model looks for; and of such features the accuracy and the log loss of heads on images that they have not seen.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from regraft import distributed
from regraft.cache import Cache
from regraft.data.augmentation_options import Augmentation
from regraft.data.dataset import Dataset, Split
from regraft.data.pixel_cache import StreamedPixels
from regraft.models.classifier import Classifier
from regraft.training.callbacks import NullReporter, ProgressReporter
from regraft.training.cross_val_predict import cross_val_predict
from regraft.training.device import choose_device, choose_precision
from regraft.training.feature_cache import extract_features, row_bytes, run_prefix
from regraft.training.losses import given_weights
from regraft.training.options import ClassWeights, TrainingOptions
from regraft.training.prefix_backend import choose_backend, make_backend
from regraft.training.setup import plan_phases

#: Lowest probability whose logarithm is taken.
_LEAST = 1e-12


@dataclass(frozen=True, eq=False)
class HeadScore:
    """How well heads predict images of other folds: accuracy, 0..1, and mean log loss, natural logarithm."""

    accuracy: float
    loss: float


def stratified_order(labels: np.ndarray, *, seed: int) -> np.ndarray:
    """An order of the images, int64 (N,), in which every first part has the shares of the classes, within one image.

    A longer part contains the shorter ones, so what was computed for these is found again.
    """
    by_class = np.lexsort((np.random.default_rng(seed).permutation(len(labels)), labels))
    counts = np.bincount(labels)
    rank = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    return by_class[np.argsort((rank + 0.5) / counts[labels[by_class]], kind="stable")]


def features_of(
    model: Classifier,
    images: Dataset,
    split: Split,
    options: TrainingOptions,
    augmentation: Augmentation,
    cache: Cache,
    scratch: Cache,
    reporter: ProgressReporter,
) -> torch.Tensor:
    """Inputs of the head for some plain training images of a split, float32 (N, F), on the CPU.

    The activations are those at the freeze boundary of a training with these options, in its precision and backend, so
    that it finds them in the cache. Where the cache has no room, they are in `scratch`.
    """
    device = choose_device(options.device)
    precision = choose_precision(options.precision, device)
    phases = plan_phases(model, options, changes_views=augmentation.changes_views)
    model.to(device).eval()
    model.preprocessing = model.preprocessing.for_white(split.dataset.white)
    kept = cache if options.cache_gb else None
    rows = len(split.train) * phases.views + len(split.val)
    name, _ = distributed.broadcast(
        choose_backend(options.prefix_backend, model, phases.cut, precision, rows=rows, cache=kept)
    )
    wanted = len(images) * row_bytes(model, phases.cut, precision)
    if kept is None or not distributed.on_rank_0(lambda: cache.make_room(wanted)):
        cache = scratch
    activations = run_prefix(
        model,
        images,
        StreamedPixels(images, model.preprocessing, cache),
        make_backend(name, model, phases.cut, precision),
        cache,
        batch_size=64 if device.type == "cpu" else 256,
        reporter=reporter,
        name=model.spec.name,
    )
    features = extract_features(model, activations, 1, precision, NullReporter()).values
    assert isinstance(features, torch.Tensor)
    return features[0]


def score_head(
    features: torch.Tensor, labels: np.ndarray, fold: np.ndarray, classes: tuple[str, ...], weights: ClassWeights
) -> HeadScore:
    """Cross-validate linear heads on features (N, F) with labels and fold numbers, both int64 (N,)."""
    if isinstance(weights, dict):  # by index, as the folds expect them
        named = given_weights(weights, classes)
        weights = {str(index): named[name] for index, name in enumerate(classes) if name in named}
    probabilities = cross_val_predict(
        features, labels, fold, NullReporter(), classes=len(classes), class_weights=weights
    )
    of_label = probabilities[np.arange(len(labels)), labels]
    return HeadScore(
        accuracy=float((probabilities.argmax(axis=1) == labels).mean()),
        loss=float(-np.log(np.maximum(of_label, _LEAST)).mean()),
    )
