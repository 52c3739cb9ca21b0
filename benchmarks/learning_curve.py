"""Does a learning curve's interval hold what twice the images then bring?

    python benchmarks/learning_curve.py [FOLDER] [--images 250] [--seeds 8] [--first-seed 0] [--alone] [--backbone NAME]

FOLDER has one folder a class; without it the solar cells of the wheel `elpv-dataset` are taken. Features are computed
once. For each seed N images are shown to `regraft.pipeline.learning_curve`; then heads are solved on them and on N
more, and judged by up to 1,500 others (half of these choose the strength for the other half). Of images that show the
same at most five are kept, since a few pictures with eighty copies would decide everything. With --alone also each
class alone is doubled. The truth of a gain is the mean over all seeds, of an accuracy that of its own seed.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

import regraft
from regraft.data.split import bundle_ids
from regraft.evaluation.learning_curve import Range
from regraft.pipeline.demo import demo_images, write_demo_manifest
from regraft.pipeline.learning_curve import FOLDS, curves, shares_for
from regraft.store import Store
from regraft.training.objective import Objective
from regraft.training.out_of_fold import frozen_features
from regraft.training.progress import Silence
from regraft.training.solver import solve_path
from regraft.training.subsets import judge_by_parts

_COPIES, _JUDGES, _REPEATS = 5, 1500, 2


def features_of(folder: Path | None, backbone: str) -> tuple[torch.Tensor, np.ndarray, np.ndarray, tuple[str, ...]]:
    """Features (N, F), labels, bundles and class names."""
    with tempfile.TemporaryDirectory() as place:
        dataset = regraft.scan(folder or write_demo_manifest(Path(place) / "cells.csv", demo_images()), store=Store())
        model = regraft.build(backbone, classes=dataset.classes, shorter_side=dataset.shorter_side, seed=0)
        features = frozen_features(model, dataset, Store(), Silence())
    bundles = bundle_ids(dataset.samples)
    kept = np.array([(bundles[:i] == bundle).sum() < _COPIES for i, bundle in enumerate(bundles)])
    return features[torch.from_numpy(kept)], dataset.labels[kept], bundles[kept], tuple(dataset.classes)


def stratified(labels: np.ndarray, bundles: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """An order in which every beginning has all classes in proportion, and each image's place in its class."""
    _, first, bundle = np.unique(bundles, return_index=True, return_inverse=True)
    place, rank = np.empty(len(first)), np.empty(len(first), dtype=np.int64)
    for label in np.unique(labels):
        own = rng.permutation(np.flatnonzero(labels[first] == label))
        place[own] = (np.arange(len(own)) + rng.random()) / len(own)
        rank[own] = np.arange(len(own))
    return np.argsort(place[bundle], kind="stable"), rank[bundle]


def right(
    features: torch.Tensor, labels: np.ndarray, train: np.ndarray, judges: np.ndarray, classes: int
) -> np.ndarray:
    """Whether a head on `train` is right on each of the judges; each half chooses the strength for the other."""
    targets, objective = torch.from_numpy(labels), Objective("cross_entropy", 0.0, torch.ones(classes))
    losses, hits = [], []
    for solution in solve_path(features[train], targets[train], objective, consume=True):
        logits = features[judges] @ solution.weight.T + solution.bias
        each = torch.nn.functional.cross_entropy(logits, targets[judges], reduction="none").numpy()
        losses.append((each[::2].sum(), each[1::2].sum()))
        hits.append((logits.argmax(dim=1) == targets[judges]).numpy())
        if len(losses) > 2 and sum(losses[-1]) > sum(losses[-2]) > sum(losses[-3]):
            break
    even, odd = np.argmin(losses, axis=0)
    found = np.empty(len(judges), dtype=bool)
    found[::2], found[1::2] = hits[odd][::2], hits[even][1::2]
    return found


def table(name: str, pairs: list[tuple[Range, float]]) -> None:
    held = np.mean([r.low <= truth <= r.high for r, truth in pairs])
    off = 100 * np.mean([abs(r.value - truth) for r, truth in pairs])
    bias = 100 * np.mean([r.value - truth for r, truth in pairs])
    width = 100 * np.mean([r.high - r.low for r, _ in pairs])
    print(f"| {name} | {len(pairs)} | {100 * held:.0f} % | {off:.1f} | {bias:+.1f} | {width:.1f} |", flush=True)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--images", type=int, default=250)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--alone", action="store_true")
    parser.add_argument("--backbone", default="efficientnet_lite0")
    chosen = parser.parse_args()
    features, labels, bundles, names = features_of(chosen.folder, chosen.backbone)
    torch.set_num_threads(1)  # the problems are small
    count, classes = chosen.images, len(names)
    if len(labels) < 2.5 * count:
        parser.error(f"{len(labels)} images; {2.5 * count:.0f} are needed to show {count}, hide as many and judge")
    told, truths, seconds = [], [], []
    for seed in range(chosen.first_seed, chosen.first_seed + chosen.seeds):
        rng = np.random.default_rng(seed)
        order, _ = stratified(labels, bundles, rng)
        shown, double, judges = order[:count], order[: 2 * count], order[2 * count :][:_JUDGES]
        started = time.perf_counter()
        folds = []
        for _ in range(_REPEATS):
            _, rank = stratified(labels[shown], bundles[shown], rng)
            folds.append(rank % FOLDS)
        judged = judge_by_parts(
            features[shown], labels[shown], bundles[shown], folds, shares_for(count, classes), Silence(),
            classes=classes, halves=chosen.alone, seed=seed,
        )  # fmt: skip
        told.append(curves(judged, labels[shown], bundles[shown], names, seed=seed))
        seconds.append(time.perf_counter() - started)
        before, after = (right(features, labels, train, judges, classes) for train in (shown, double))
        own = [labels[judges] == label for label in range(classes)]
        gains = [float(after[o].mean() - before[o].mean()) for o in own]
        alone = []
        for label in range(classes) if chosen.alone else ():
            more = double[count:][labels[double[count:]] == label]
            found = right(features, labels, np.concatenate([shown, more]), judges, classes)
            alone.append(float(found[own[label]].mean() - before[own[label]].mean()))
        truths.append((float(after.mean()), float(after.mean() - before.mean()), gains, alone))
    print(f"{count} of {len(labels)} images shown, {classes} classes, {np.mean(seconds):.1f} s a curve; in points:\n")
    print("| what | predictions | interval held | off by | bias | width |\n|---|---|---|---|---|---|")
    table("accuracy with twice the images", [(a.ahead[1], t[0]) for (a, _, _), t in zip(told, truths, strict=True)])
    gain, of_class = np.mean([t[1] for t in truths]), np.mean([t[2] for t in truths], axis=0)
    table("its gain", [(a.gain, float(gain)) for a, _, _ in told])
    table("recall's gain, all doubled", [(r.joint.gain, of_class[i]) for _, _, c in told for i, r in enumerate(c)])
    if chosen.alone:
        of_alone = np.mean([t[3] for t in truths], axis=0)
        table(
            "recall's gain, it alone", [(r.alone, of_alone[i]) for _, _, c in told for i, r in enumerate(c) if r.alone]
        )


if __name__ == "__main__":
    main()
