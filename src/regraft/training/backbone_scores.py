"""Score backbones on a part of the training images by cross-validation of the head alone.

Input: a model and images. Output: the inputs of its head, from the cached activations that a training of this model
looks for; then, for such features, the accuracy and the log loss of heads on held-out images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from regraft import distributed
from regraft.cache import Cache
from regraft.data.augmentation_options import Augmentation
from regraft.data.dataset import Dataset, Split
from regraft.data.pixel_cache import StreamedPixels
from regraft.models.classifier import Classifier
from regraft.training.callbacks import NullReporter, ProgressReporter
from regraft.training.device import choose_device, choose_precision
from regraft.training.feature_cache import extract_features, row_bytes, run_prefix
from regraft.training.linear_head import L2_VALUES, fit_path
from regraft.training.losses import Objective, weights_of_classes
from regraft.training.options import ClassWeights, TrainingOptions
from regraft.training.prefix_backend import choose_backend, make_backend
from regraft.training.setup import plan_phases


@dataclass(frozen=True, eq=False)
class HeadScore:
    """How well heads predict images of other folds: accuracy, 0..1, and mean log loss, natural logarithm.

    `l2` is the L2 strength with the lowest loss.
    """

    accuracy: float
    loss: float
    l2: float


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
    features = extract_features(model, activations, 1, precision, NullReporter(), embedded=True).values
    assert isinstance(features, torch.Tensor)
    return features[0]


def score_head(
    features: torch.Tensor,
    labels: np.ndarray,
    fold: np.ndarray,
    classes: Sequence[str],
    weights: ClassWeights,
    *,
    near: float | None = None,
) -> HeadScore:
    """Cross-validate linear heads on features (N, F) with labels and fold numbers, both int64 (N,).

    The L2 strength is the one with the lowest loss over all folds; with `near`, among this one and those beside it. The
    score is a little too good for that, and equally so for all backbones.
    """
    place = None if near is None else L2_VALUES.index(near)
    l2_values = L2_VALUES if place is None else L2_VALUES[max(0, place - 1) : place + 2]
    targets, numbers = torch.from_numpy(labels), np.unique(fold)
    logits = torch.full((len(l2_values), len(labels), len(classes)), torch.nan)
    for number in numbers:
        outside = torch.from_numpy(fold == number)
        objective = Objective(
            "cross_entropy", 0.0, weights_of_classes(weights, labels[fold != number], classes).to(features.device)
        )
        losses: list[float] = []
        path = fit_path(
            features[~outside], targets[~outside], objective, l2_values=l2_values, consume=True, coarse=True
        )
        for row, head in enumerate(path):
            values = features[outside] @ head.weight.T + head.bias
            logits[row, outside] = values
            losses.append(functional.cross_entropy(values.double(), targets[outside]).item())
            if len(losses) > 2 and losses[-1] > losses[-2] > losses[-3]:
                break  # weaker penalties cannot help
    of_label = logits.double().log_softmax(dim=2)[:, torch.arange(len(labels)), targets]
    mean = -of_label.mean(dim=1)  # not a number where a fold has ended before
    best = int(torch.where(mean.isnan(), torch.inf, mean).argmin())
    return HeadScore(
        accuracy=float((logits[best].argmax(dim=1) == targets).double().mean()),
        loss=float(mean[best]),
        l2=l2_values[best],
    )
