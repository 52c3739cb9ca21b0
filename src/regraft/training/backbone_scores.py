"""Score backbones on a part of the training images by cross-validation of the head alone.

Input: a model and images. Output: the inputs of its head, from the cached activations that a training of this model
looks for; then, for such features, the accuracy and the log loss of heads on held-out images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from regraft import distributed
from regraft.cache import Cache
from regraft.data.augmentation_options import Augmentation
from regraft.data.dataset import Dataset, Split
from regraft.data.labels import ModelTask
from regraft.models.classifier import Classifier
from regraft.training.callbacks import ProgressReporter
from regraft.training.device import choose_device, choose_precision
from regraft.training.feature_cache import row_bytes
from regraft.training.frozen_features import frozen_features
from regraft.training.linear_head import ENOUGH_IMAGES, L2_VALUES, held_out_path
from regraft.training.losses import Objective, strata
from regraft.training.options import ClassWeights, TrainingOptions
from regraft.training.phase_plan import plan_phases
from regraft.training.prefix_backend import choose_backend


@dataclass(frozen=True, eq=False)
class BackboneScore:
    """How well heads on a backbone predict images of other folds: accuracy, 0..1, and mean log loss, natural logarithm.

    Where an image has any number of classes, the accuracy is the share of the right answers, and the loss that of all.
    `l2` is the L2 strength with the lowest loss, and `losses` are those of the images, float64 (N,).
    """

    accuracy: float
    loss: float
    l2: float
    losses: np.ndarray

    def is_beaten_by(self, other: BackboneScore) -> bool:
        """Whether the other's loss is lower by more than a standard error of the difference on the same images."""
        difference = self.losses - other.losses
        return bool(difference.mean() > difference.std(ddof=1) / np.sqrt(len(difference)))


def stratified_order(labels: np.ndarray, *, seed: int) -> np.ndarray:
    """An order of the images, int64 (N,), in which every first part has the shares of the classes, within one image.

    Labels are class indices, int64 (N,), or indicators, (N, C), of which the shares of the sets of classes are kept. A
    longer part contains the shorter ones, so what was computed for these is found again.
    """
    labels = strata(torch.from_numpy(labels), "multilabel") if labels.ndim == 2 else labels
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
    precision = choose_precision(options.precision, device := choose_device(options.device))
    phases = plan_phases(model, options, changes_views=augmentation.changes_views)
    model.to(device).eval()
    model.preprocessing = model.preprocessing.for_value_range(split.dataset.value_range)
    kept = cache if options.cache_gb else None
    rows = len(split.train) * phases.views + len(split.val)
    backend, _ = distributed.broadcast(
        choose_backend(options.prefix_backend, model, phases.cut, precision, rows=rows, cache=kept)
    )
    wanted = len(images) * row_bytes(model, phases.cut, precision)
    if kept is None or not distributed.on_rank_0(lambda: cache.make_room(wanted)):
        cache = scratch
    return frozen_features(
        model, images, cache, reporter, options=options, boundary=phases.cut, value_range=split.dataset.value_range,
        backend=backend, name=model.spec.name,
    )  # fmt: skip


def score_head(
    features: torch.Tensor,
    labels: np.ndarray,
    fold: np.ndarray,
    classes: Sequence[str],
    weights: ClassWeights,
    *,
    near: float | None = None,
    task: ModelTask | None = None,
) -> BackboneScore:
    """Cross-validate linear heads on features (N, F) with fold numbers and labels, both int64 (N,).

    Labels may be indicators, float32 (N, C), if an image has any number of classes; `task` says if classes have an
    order.
    The L2 strength is the one with the lowest loss over all folds: with `near`, among this one and those beside it, and
    else among the best one of the first fold, if it has enough images, and those beside it. The score is a little too
    good for that, and equally so for all backbones.
    """
    l2_values = L2_VALUES if near is None else _beside(near)
    targets, numbers = torch.from_numpy(labels), np.unique(fold)
    objective = Objective.of_labels(labels, classes, task=task)
    tried = l2_values
    logits = torch.full((len(l2_values), len(labels), len(classes)), torch.nan)
    for number in numbers:
        outside = torch.from_numpy(fold == number)
        objective = Objective.of_labels(labels[fold != number], classes, weights, task)
        path = list(held_out_path(features, targets, outside, objective, l2_values=tried, coarse=True))
        for l2, (values, _) in zip(tried, path, strict=False):
            logits[l2_values.index(l2), outside] = values
        if number == numbers[0] and near is None and int(outside.sum()) >= ENOUGH_IMAGES:
            tried = _beside(min(zip(tried, path, strict=False), key=lambda fit: fit[1][1])[0])
    plain, wanted = objective.plain(), objective.targets(targets)
    # Not a number where a fold has ended before.
    losses = torch.stack([plain.per_image(values.double(), wanted.double()) for values in logits])
    mean = losses.mean(dim=1)
    best = int(torch.where(mean.isnan(), torch.inf, mean).argmin())
    return BackboneScore(
        accuracy=float(plain.hits(logits[best], wanted).double().mean()),
        loss=float(mean[best]),
        l2=l2_values[best],
        losses=losses[best].numpy(),
    )


def _beside(l2: float) -> Sequence[float]:
    """An L2 strength with those beside it, from strong to weak."""
    place = L2_VALUES.index(l2)
    return L2_VALUES[max(0, place - 1) : place + 2]
