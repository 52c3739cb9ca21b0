"""Accuracy on held-out training images of heads that learn from images without labels, by how these get their targets.

    python benchmarks/soft_label_choices.py DATA.zip [--images 50,200] [--draws 5] [--record]

DATA.zip has the folders `train/` and `test/` of classes; only `train/` is read. The images of a draw
(benchmarks/draw.py) have labels; 300 others are held out, which nothing sees, and the rest has no labels. All heads are
linear, on features of the frozen efficientnet_lite0 at 160 pixels, at the L2 strength with the lowest calibrated
held-out loss over the draws, which is the same advantage for all.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from draw import stratified_order
from evidence import save, take_flag

import regraft
from regraft.cache import Cache
from regraft.training.callbacks import NullReporter
from regraft.training.frozen_features import frozen_features
from regraft.training.label_propagation import certainty, nearest_neighbors, propagate
from regraft.training.linear_head import L2_VALUES, LinearHead, fit_path
from regraft.training.losses import Objective, compute_metrics

HELD_OUT, START_L2, TEMPERATURE, WEIGHT = 300, 1, 0.5, 0.5
STRENGTHS = L2_VALUES[1:6]
Paths = dict[str, list[list[tuple[float, float]]]]


def main() -> None:
    """Fit all heads on all draws and print a table."""
    record = take_flag()
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("--images", default="200,50")
    parser.add_argument("--draws", type=int, default=5)
    arguments = parser.parse_args()
    data = regraft.scan(arguments.data, cache=Cache(), near_duplicates=False)
    train = data.with_samples(data.table.take(data.table.parts == 0))
    model = regraft.build("efficientnet_lite0", classes=data.classes, image_size=160)
    features, labels = frozen_features(model, train, Cache(), NullReporter()), train.labels
    samples: dict[str, list[float]] = {}
    for number in map(int, arguments.images.split(",")):
        paths: Paths = {}
        for seed in range(arguments.draws):
            add_draw(paths, features, labels, number, seed)
        for name, path in paths.items():
            values = np.array(path)  # (draws, strengths, accuracy and loss)
            best = int(values[:, :, 1].mean(axis=0).argmin())
            samples[f"{number} labels, {name}"] = values[:, best, 0].tolist()
            print(f"{number} labels, {name}: {values[:, best, 0].mean():.4f} at L2 {STRENGTHS[best]:.2g}", flush=True)
    if record:
        save("soft-label-choices", samples, unit="accuracy")


def add_draw(paths: Paths, features: torch.Tensor, labels: np.ndarray, number: int, seed: int) -> None:
    """Fit a head for each way to make targets, and append its accuracy and calibrated loss at each L2 strength."""
    classes, rng = int(labels.max()) + 1, np.random.default_rng(seed)
    order = stratified_order(labels, seed)
    labeled, rest = np.sort(order[:number]), rng.permutation(order[number:])
    held_out, others = rest[:HELD_OUT], rest[HELD_OUT:]
    objective, count = Objective("cross_entropy", 0.1, torch.ones(classes)), len(labeled)
    every = features[np.concatenate([labeled, others])]
    one_hot = np.eye(classes)[labels[labeled]]

    def fit(name: str, targets: torch.Tensor, weights: torch.Tensor | None) -> list[LinearHead]:
        rows, true = features[held_out], torch.from_numpy(labels[held_out])
        scores, heads = [], []
        for head in fit_path(
            every[: len(targets)].clone(), targets, objective, weights=weights, l2_values=STRENGTHS, coarse=True
        ):
            metrics = compute_metrics(objective, rows @ head.weight.T + head.bias, true, calibrate=True)
            scores.append((metrics.accuracy, float(np.mean(metrics.calibrated_losses))))
            heads.append(head)
        paths.setdefault(name, []).append(scores)
        return heads

    def fit_soft(name: str, probabilities: np.ndarray, targets: np.ndarray, weight: float = WEIGHT) -> None:
        certain = certainty(probabilities)
        weights = np.concatenate([np.ones(count), weight * certain / certain.mean()])
        both = np.concatenate([one_hot, targets / targets.sum(axis=1, keepdims=True)])
        fit(name, torch.from_numpy(both).float(), torch.from_numpy(weights).float())

    head = fit("the labels alone", torch.from_numpy(labels[labeled]), None)[START_L2]
    logits = (every[count:] @ head.weight.T + head.bias).double() / TEMPERATURE
    said = logits.softmax(dim=1).numpy()
    graph = nearest_neighbors(every, 20)
    ten, twenty = (graph.among(np.arange(len(every)), k) for k in (10, 20))
    nothing = np.zeros_like(said)
    fit_soft("self-training, power 3", said, said**3)
    for alpha in (0.5, 0.8, 0.95):
        plain = propagate(ten, np.concatenate([one_hot, nothing]), count, alpha=alpha)
        fit_soft(f"labels propagated, alpha {alpha}, power 2", plain, plain**2)
        fit_soft(f"labels propagated, alpha {alpha}, hard", plain, np.eye(classes)[plain.argmax(axis=1)])
        smooth = propagate(ten, np.concatenate([one_hot, said]), count, alpha=alpha)
        fit_soft(f"head smoothed, alpha {alpha}, power 1", smooth, smooth)
        fit_soft(f"head smoothed, alpha {alpha}, power 3", smooth, smooth**3)
    smooth = propagate(twenty, np.concatenate([one_hot, said]), count, alpha=0.8)
    fit_soft("head smoothed, 20 neighbors, alpha 0.8, power 3", smooth, smooth**3)
    smooth = propagate(ten, np.concatenate([one_hot, said]), count, alpha=0.5)
    fit_soft("head smoothed, alpha 0.5, power 3, weight 1", smooth, smooth**3, 1.0)


if __name__ == "__main__":
    main()
