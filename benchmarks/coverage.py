"""Whether intervals and sets hold on real images what they promise: 50 splits of the solar cells.

    python benchmarks/coverage.py [--splits 50]

Of the 2,223 cells whose label is sure, each split draws 600 to train on, 300 to choose by and 200 to test on; the
head on the default backbone's frozen features is solved, and the rest of the cells stand for the truth. The rest is no
infinite set: the share that a correct 95 % interval would hold is given beside what was held.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from statistics import NormalDist

import numpy as np
import torch

from regraft.data.dataset import Dataset
from regraft.data.scan import scan
from regraft.evaluation.abstention import conformal_threshold
from regraft.evaluation.calibration import fit_temperature, tempered
from regraft.evaluation.metrics import evaluate
from regraft.evaluation.predictions import Predictions
from regraft.models.classifier import build
from regraft.pipeline.demo import demo_images, write_demo_manifest
from regraft.store import Store
from regraft.training.objective import Objective
from regraft.training.out_of_fold import frozen_features
from regraft.training.progress import Silence
from regraft.training.solver import solve_path

TRAIN, VAL, TEST = 600, 300, 200


def predictions(dataset: Dataset, features: torch.Tensor, rng: np.random.Generator) -> list[Predictions]:
    """Of the test images and of the rest, at the temperature that val gives, and of val."""
    labels, order = dataset.labels, rng.permutation(len(dataset))
    train, val, test, rest = np.split(order, np.cumsum([TRAIN, VAL, TEST]))
    objective = Objective("cross_entropy", 0.0, torch.ones(len(dataset.classes)))
    told: list[Predictions] = []
    least = float("inf")
    for solution in solve_path(features[train], torch.from_numpy(labels[train]), objective):
        logits = features @ solution.weight.T + solution.bias
        p = logits.double().softmax(dim=1).numpy()
        found = [Predictions.from_arrays(labels[part], p[part], dataset.classes) for part in (test, rest, val)]
        loss = evaluate(found[2]).loss
        if loss > least:
            break
        least, temperature = loss, fit_temperature(found[2])
        told = [Predictions.from_arrays(f.labels, tempered(f.probabilities, temperature)) for f in found]
    return told


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--splits", type=int, default=50)
    splits = parser.parse_args().splits
    store = Store()
    with tempfile.TemporaryDirectory() as folder:
        dataset = scan(write_demo_manifest(Path(folder) / "cells.csv", demo_images()), store=store, twins=False)
    model = build(classes=dataset.classes, shorter_side=dataset.shorter_side)
    features = frozen_features(model, dataset, store, Silence())
    held = {"accuracy": [], "macro_f1": []}
    covered: dict[float, list[float]] = {0.8: [], 0.9: [], 0.95: []}
    spread = []
    for seed in range(splits):
        test, rest, val = predictions(dataset, features, np.random.default_rng(seed))
        ours, truth = evaluate(test), evaluate(rest)
        for name, (low, high) in (("accuracy", ours.accuracy_interval), ("macro_f1", ours.intervals["macro_f1"])):
            held[name].append(low <= getattr(truth, name) <= high)
        spread.append(len(test) / len(rest))
        for wanted, found in covered.items():
            least = conformal_threshold(val, wanted)
            found.append(float((rest.probabilities[np.arange(len(rest)), rest.labels] >= least).mean()))
    fair = 2 * NormalDist().cdf(NormalDist().inv_cdf(0.975) / (1 + float(np.mean(spread))) ** 0.5) - 1
    print(f"{splits} splits\n\n| promised | of what | held |\n|---|---|---|")
    for name, found in held.items():
        print(f"| 0.95 (here {fair:.3f}) | {name} of {TEST} test images | {np.mean(found):.3f} |")
    for wanted, found in covered.items():
        print(f"| {wanted} | sets, chosen on {VAL} | {np.mean(found):.3f} (deviation {np.std(found):.3f}) |")


if __name__ == "__main__":
    main()
