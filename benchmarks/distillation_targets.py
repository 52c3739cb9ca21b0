"""Which targets a student's head learns best from: a teacher's own answers, or out-of-fold ones; share; temperature.

    python benchmarks/distillation_targets.py DATA [--draws 4] [--record]

Only training images of DATA (its part `train`, as cifar10-1k has) are used: of each draw some are labeled, some
unlabeled, and the rest is held out. The backbones are frozen; the teacher is a head on the features of all of them
side by side, the student one on those of the first. Prints the mean gain in held-out accuracy over the plain student.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator

import numpy as np
import torch
from evidence import save

from regraft.cache import Cache
from regraft.data.dataset import Dataset
from regraft.data.samples import PARTS
from regraft.data.scan import scan
from regraft.models.classifier import build
from regraft.training.callbacks import NullReporter
from regraft.training.cross_val_predict import cross_val_predict
from regraft.training.distillation import mix_with_labels, soften
from regraft.training.frozen_features import frozen_features
from regraft.training.linear_head import LinearHead, fit_head, stratified_folds
from regraft.training.losses import Objective

BACKBONES = ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2")
#: Labeled and unlabeled images of a draw.
CASES = ((700, 0), (200, 500))
SHARES, TEMPERATURES = (0.5, 0.9, 1.0), (1.0, 2.0, 4.0)


def main() -> None:
    """Compare the targets and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data")
    parser.add_argument("--draws", type=int, default=4)
    parser.add_argument("--record", action="store_true")
    given = parser.parse_args()
    dataset = scan(given.data, near_duplicates=False, cache=Cache())
    table = dataset.table
    train = dataset.with_samples(table.take(table.parts == PARTS.index("train")))
    features = [features_of(backbone, train) for backbone in BACKBONES]
    accuracies: dict[str, list[float]] = {}
    for labeled, unlabeled in CASES:
        for draw in range(given.draws):
            order = torch.from_numpy(np.random.default_rng(draw).permutation(len(train)))
            parts = order.split([labeled, unlabeled, len(order) - labeled - unlabeled])
            for name, accuracy in compare(features, train.labels, len(train.classes), parts):
                accuracies.setdefault(f"{labeled} labeled, {unlabeled} unlabeled: {name}", []).append(accuracy)
            print(labeled, unlabeled, "draw", draw, flush=True)
    for label, values in accuracies.items():
        plain = accuracies[f"{label.partition(':')[0]}: plain"]
        gains = [value - before for value, before in zip(values, plain, strict=True)]
        print(f"{label:70} {statistics.mean(values):.4f} {statistics.mean(gains):+.4f}")
    if given.record:
        save("distillation-targets", accuracies, unit="accuracy", title="targets of a student's head", data=given.data)


def features_of(backbone: str, images: Dataset) -> torch.Tensor:
    """Standardized inputs of the head, (N, F)."""
    model = build(backbone, classes=images.classes, image_size=160)
    features = frozen_features(model, images, Cache(), NullReporter())
    return (features - features.mean(dim=0)) / features.std(dim=0).clamp_min(1e-6)


def compare(
    features: list[torch.Tensor], labels: np.ndarray, classes: int, parts: tuple[torch.Tensor, ...]
) -> Iterator[tuple[str, float]]:
    """Held-out accuracies by what the student learns from."""
    labeled, unlabeled, held_out = parts
    truth, ours, every = torch.from_numpy(labels), features[0], torch.cat(features, dim=1)
    teacher = fit(every[labeled], truth[labeled], classes)
    yield "plain", accuracy(fit(ours[labeled], truth[labeled], classes, smoothing=0.1), ours, truth, held_out)
    yield "teacher", accuracy(teacher, every, truth, held_out)
    own = labels[labeled.numpy()]
    said = (every @ teacher.weight.T + teacher.bias).double().softmax(dim=1).numpy()
    fold = stratified_folds(own, 5)
    outside = cross_val_predict(every[labeled], own, fold, NullReporter(), classes=classes)
    for name, of_labeled in (("its own answers", said[labeled.numpy()]), ("out-of-fold answers", outside)):
        for temperature in TEMPERATURES:
            of_unlabeled = soften(said[unlabeled.numpy()], temperature)
            for share in SHARES:
                mixed = mix_with_labels(soften(of_labeled, temperature), own, share)
                targets = torch.from_numpy(np.concatenate([mixed, of_unlabeled])).float()
                student = fit(ours[torch.cat([labeled, unlabeled])], targets, classes)
                yield f"{name}, share {share:g}, temperature {temperature:g}", accuracy(student, ours, truth, held_out)


def fit(rows: torch.Tensor, targets: torch.Tensor, classes: int, *, smoothing: float = 0.0) -> LinearHead:
    """A head at the L2 strength that cross-validation chooses."""
    head, _ = fit_head(rows[None].clone(), targets, Objective("cross_entropy", smoothing, torch.ones(classes)))
    return head


def accuracy(head: LinearHead, features: torch.Tensor, labels: torch.Tensor, images: torch.Tensor) -> float:
    """Accuracy on these images, 0..1."""
    predicted = (features[images] @ head.weight.T + head.bias).argmax(dim=1)
    return float((predicted == labels[images]).float().mean())


if __name__ == "__main__":
    main()
