"""Coverage of confidence intervals and prediction sets on real images: 50 splits of the solar cells.

    python benchmarks/interval_coverage.py [--splits 50] [--record]

Of the 2,223 cells with a certain label, each split draws 600 to train on, 300 for validation and 200 to test on. The
head is fitted on frozen features of the default backbone, and the remaining cells give the true value. Because these
are finite, the expected coverage of a correct 95 % interval is printed next to the measured one.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from statistics import NormalDist

import numpy as np
import torch
from evidence import save, take_flag

from regraft.cache import Cache
from regraft.data.dataset import Dataset
from regraft.data.scan import scan
from regraft.evaluation.abstention import conformal_threshold
from regraft.evaluation.calibration import apply_temperature, fit_temperature
from regraft.evaluation.metrics import evaluate
from regraft.evaluation.predictions import Predictions
from regraft.models.classifier import build
from regraft.runs.demo import demo_images, write_demo_manifest
from regraft.training.callbacks import NullReporter
from regraft.training.frozen_features import frozen_features
from regraft.training.linear_head import fit_path
from regraft.training.losses import Objective

TRAIN, VAL, TEST = 600, 300, 200


def predictions(dataset: Dataset, features: torch.Tensor, rng: np.random.Generator) -> list[Predictions]:
    """Calibrated predictions for the test images, the remaining images and the validation images."""
    labels, order = dataset.labels, rng.permutation(len(dataset))
    train, val, test, rest = np.split(order, np.cumsum([TRAIN, VAL, TEST]))
    objective = Objective("cross_entropy", 0.0, torch.ones(len(dataset.classes)))
    best: list[Predictions] = []
    lowest = float("inf")
    for solution in fit_path(features[train], torch.from_numpy(labels[train]), objective):
        logits = features @ solution.weight.T + solution.bias
        p = logits.double().softmax(dim=1).numpy()
        found = [Predictions.from_arrays(labels[part], p[part], dataset.classes) for part in (test, rest, val)]
        loss = evaluate(found[2]).loss
        if loss > lowest:
            break
        lowest, temperature = loss, fit_temperature(found[2])
        best = [Predictions.from_arrays(f.labels, apply_temperature(f.probabilities, temperature)) for f in found]
    return best


def main() -> None:
    """Measure the coverage and print a Markdown table."""
    record = take_flag()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--splits", type=int, default=50)
    splits = parser.parse_args().splits
    cache = Cache()
    with tempfile.TemporaryDirectory() as folder:
        dataset = scan(
            write_demo_manifest(Path(folder) / "cells.csv", demo_images()), cache=cache, near_duplicates=False
        )
    model = build(classes=dataset.classes, shorter_side=dataset.shorter_side)
    features = frozen_features(model, dataset, cache, NullReporter())
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
    print(f"{splits} splits\n\n| nominal | quantity | coverage |\n|---|---|---|")
    for name, found in held.items():
        print(f"| 0.95 (here {fair:.3f}) | {name}, {TEST} test images | {np.mean(found):.3f} |")
    for wanted, found in covered.items():
        print(
            f"| {wanted} | prediction sets, calibrated on {VAL} images | {np.mean(found):.3f} "
            f"(deviation {np.std(found):.3f}) |"
        )
    if record:
        results = {f"interval of the {name} of {TEST} test images": [float(np.mean(v))] for name, v in held.items()}
        facts = {label: {"promised": f"0.95 (expected here {fair:.3f})"} for label in results}
        for wanted, shares in covered.items():
            label = f"{wanted:.0%} prediction sets, calibrated on {VAL} images"
            results[label], facts[label] = [float(np.mean(shares))], {"promised": f"{wanted}"}
        save("interval-coverage", results, unit="share held", facts=facts)


if __name__ == "__main__":
    main()
