"""Coverage of the intervals of a learning curve: do they contain the accuracy with twice the images?

    python benchmarks/learning_curve.py [FOLDER] [--images 250] [--seeds 8] [--first-seed 0] [--alone] [--backbone NAME]

FOLDER has one folder per class; the default is the solar cells of the wheel `elpv-dataset`. Features are computed once.
For each seed, `studies.learning_curve` extrapolates from N images. Then heads are fitted on these and on N more, and
evaluated on up to 1,500 others (each half of these selects the L2 strength for the other half). At most five images of
a group of near duplicates are kept, because a few images with eighty copies would dominate. With --alone, each class
alone is also doubled. The true gain is the mean over all seeds; the true accuracy is that of the seed.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

import regraft
from regraft.cache import Cache
from regraft.data.split import inseparable_set_ids
from regraft.runs.demo import demo_images, write_demo_manifest
from regraft.studies.learning_curve.extrapolation import Interval
from regraft.studies.learning_curve.learning_curve import FOLDS, fit_curves, subset_shares
from regraft.studies.learning_curve.subsets import predict_by_subsets
from regraft.training.callbacks import NullReporter
from regraft.training.frozen_features import frozen_features
from regraft.training.linear_head import fit_path
from regraft.training.losses import Objective

_COPIES, _TEST_IMAGES, _REPEATS = 5, 1500, 2


def features_of(folder: Path | None, backbone: str) -> tuple[torch.Tensor, np.ndarray, np.ndarray, tuple[str, ...]]:
    """Features (N, F), labels, group of each image and class names."""
    with tempfile.TemporaryDirectory() as place:
        dataset = regraft.scan(folder or write_demo_manifest(Path(place) / "cells.csv", demo_images()), cache=Cache())
        model = regraft.build(backbone, classes=dataset.classes, shorter_side=dataset.shorter_side, seed=0)
        features = frozen_features(model, dataset, Cache(), NullReporter())
    groups = inseparable_set_ids(dataset.samples)
    kept = np.array([(groups[:i] == group).sum() < _COPIES for i, group in enumerate(groups)])
    return features[torch.from_numpy(kept)], dataset.labels[kept], groups[kept], tuple(dataset.classes)


def stratified(labels: np.ndarray, groups: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A stratified order (every prefix has all classes in proportion), and the rank of each image in its class."""
    _, first, group = np.unique(groups, return_index=True, return_inverse=True)
    place, rank = np.empty(len(first)), np.empty(len(first), dtype=np.int64)
    for label in np.unique(labels):
        own = rng.permutation(np.flatnonzero(labels[first] == label))
        place[own] = (np.arange(len(own)) + rng.random()) / len(own)
        rank[own] = np.arange(len(own))
    return np.argsort(place[group], kind="stable"), rank[group]


def correct(
    features: torch.Tensor, labels: np.ndarray, train: np.ndarray, test: np.ndarray, classes: int
) -> np.ndarray:
    """Whether a head fitted on `train` is right for each test image; each half selects the L2 for the other."""
    targets, objective = torch.from_numpy(labels), Objective("cross_entropy", 0.0, torch.ones(classes))
    losses, hits = [], []
    for solution in fit_path(features[train], targets[train], objective, consume=True):
        logits = features[test] @ solution.weight.T + solution.bias
        each = torch.nn.functional.cross_entropy(logits, targets[test], reduction="none").numpy()
        losses.append((each[::2].sum(), each[1::2].sum()))
        hits.append((logits.argmax(dim=1) == targets[test]).numpy())
        if len(losses) > 2 and sum(losses[-1]) > sum(losses[-2]) > sum(losses[-3]):
            break
    even, odd = np.argmin(losses, axis=0)
    result = np.empty(len(test), dtype=bool)
    result[::2], result[1::2] = hits[odd][::2], hits[even][1::2]
    return result


def table(name: str, pairs: list[tuple[Interval, float]]) -> None:
    coverage = np.mean([r.low <= truth <= r.high for r, truth in pairs])
    error = 100 * np.mean([abs(r.value - truth) for r, truth in pairs])
    bias = 100 * np.mean([r.value - truth for r, truth in pairs])
    width = 100 * np.mean([r.high - r.low for r, _ in pairs])
    print(f"| {name} | {len(pairs)} | {100 * coverage:.0f} % | {error:.1f} | {bias:+.1f} | {width:.1f} |", flush=True)


def main() -> None:
    """Fit the curves and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--images", type=int, default=250)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--alone", action="store_true")
    parser.add_argument("--backbone", default="efficientnet_lite0")
    args = parser.parse_args()
    features, labels, groups, names = features_of(args.folder, args.backbone)
    torch.set_num_threads(1)  # the problems are small
    count, classes = args.images, len(names)
    if len(labels) < 2.5 * count:
        parser.error(
            f"{len(labels)} images; expected at least {2.5 * count:.0f}: {count} to use, {count} to add and a test"
        )
    curves, truths, seconds = [], [], []
    for seed in range(args.first_seed, args.first_seed + args.seeds):
        rng = np.random.default_rng(seed)
        order, _ = stratified(labels, groups, rng)
        used, double, test = order[:count], order[: 2 * count], order[2 * count :][:_TEST_IMAGES]
        started = time.perf_counter()
        folds = []
        for _ in range(_REPEATS):
            _, rank = stratified(labels[used], groups[used], rng)
            folds.append(rank % FOLDS)
        predictions = predict_by_subsets(
            features[used], labels[used], groups[used], folds, subset_shares(count, classes), NullReporter(),
            classes=classes, halves=args.alone, seed=seed,
        )  # fmt: skip
        curves.append(fit_curves(predictions, labels[used], groups[used], names, seed=seed))
        seconds.append(time.perf_counter() - started)
        before, after = (correct(features, labels, train, test, classes) for train in (used, double))
        own = [labels[test] == label for label in range(classes)]
        gains = [float(after[o].mean() - before[o].mean()) for o in own]
        alone = []
        for label in range(classes) if args.alone else ():
            more = double[count:][labels[double[count:]] == label]
            hits = correct(features, labels, np.concatenate([used, more]), test, classes)
            alone.append(float(hits[own[label]].mean() - before[own[label]].mean()))
        truths.append((float(after.mean()), float(after.mean() - before.mean()), gains, alone))
    print(f"{count} of {len(labels)} images used, {classes} classes, {np.mean(seconds):.1f} s per curve; in points:\n")
    print("| quantity | predictions | coverage | mean error | bias | width |\n|---|---|---|---|---|---|")
    table(
        "accuracy with twice the images",
        [(a.extrapolated[1], t[0]) for (a, _, _), t in zip(curves, truths, strict=True)],
    )
    gain, of_class = np.mean([t[1] for t in truths]), np.mean([t[2] for t in truths], axis=0)
    table("gain of accuracy", [(a.gain, float(gain)) for a, _, _ in curves])
    table(
        "gain of recall, all classes doubled",
        [(r.recall.gain, of_class[i]) for _, _, c in curves for i, r in enumerate(c)],
    )
    if args.alone:
        of_alone = np.mean([t[3] for t in truths], axis=0)
        table(
            "gain of recall, only this class doubled",
            [(r.gain_alone, of_alone[i]) for _, _, c in curves for i, r in enumerate(c) if r.gain_alone],
        )


if __name__ == "__main__":
    main()
