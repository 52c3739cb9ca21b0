"""How often intervals, thresholds and sets hold what they promise, where the truth is known because it was drawn.

    python benchmarks/promises.py [--times 2000]

Worlds are drawn with classes of unlike sizes and recalls; of each, a test set is drawn once. The suite runs the same
with fewer of them (`tests/evaluation/test_intervals.py`, `test_abstention.py`).
"""

from __future__ import annotations

import argparse

import numpy as np

from regraft.evaluation.abstention import conformal_threshold, select, threshold_for
from regraft.evaluation.intervals import draw_counts, interval_about, wilson_interval
from regraft.evaluation.predictions import Predictions

#: Classes, images in all, and about which recall.
WORLDS = ((2, 50, 0.95), (2, 200, 0.9), (10, 100, 0.8), (10, 500, 0.9), (100, 1000, 0.8))


def macro_f1(right: np.ndarray, support: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Written anew, so that a fault of the package's own is not taken for the truth."""
    there = support + chosen > 0
    return np.asarray(np.where(there, 2 * right / np.where(there, support + chosen, 1), 0).sum(-1) / there.sum(-1))


def of_matrix(matrix: np.ndarray) -> float:
    """The same of a confusion matrix, in images or in probabilities."""
    right, support, chosen = (np.array(v, float)[None] for v in (np.diag(matrix), matrix.sum(1), matrix.sum(0)))
    return float(macro_f1(right, support, chosen)[0])


def world(rng: np.random.Generator, classes: int, recall: float) -> np.ndarray:
    """Probabilities of each pair of true and predicted class, (C, C)."""
    shares = rng.dirichlet(np.full(classes, 20.0))
    found = np.clip(rng.beta(20 * recall, 20 * (1 - recall), classes), 0.05, 0.999)
    pairs = np.zeros((classes, classes))
    for i in range(classes):
        pairs[i, np.arange(classes) != i] = shares[i] * (1 - found[i]) * rng.dirichlet(np.full(classes - 1, 0.5))
        pairs[i, i] = shares[i] * found[i]
    return pairs


def macro_f1_coverage(classes: int, images: int, recall: float, times: int) -> float:
    """Share of worlds whose macro-F1 lies in the interval of a test set drawn from them."""
    rng = np.random.default_rng(classes + images)
    inside = 0
    for seed in range(times):
        pairs = world(rng, classes, recall)
        matrix = rng.multinomial(images, pairs.ravel()).reshape(classes, classes)
        draws = np.concatenate([macro_f1(*draw) for draw in draw_counts(matrix, seed=seed)])
        low, high = interval_about(of_matrix(matrix), draws)
        inside += bool(low <= of_matrix(pairs) <= high)
    return inside / times


def accuracy_coverage(count: int, share: float, times: int) -> float:
    """Share of draws whose Wilson interval holds the share that they were drawn with."""
    hits = np.random.default_rng(count).binomial(count, share, times)
    ends = np.array([wilson_interval(int(hit), count) for hit in hits])
    return float(np.mean((ends[:, 0] <= share) & (share <= ends[:, 1])))


def drawn(rng: np.random.Generator, count: int, classes: int = 4) -> Predictions:
    """Labels drawn from the probabilities that are told."""
    probabilities = rng.dirichlet(np.full(classes, 0.4), count)
    labels = (rng.random((count, 1)) > probabilities.cumsum(axis=1)).sum(axis=1).clip(0, classes - 1)
    return Predictions.from_arrays(labels, probabilities)


def accuracy_of_sure(count: int, accuracy: float, times: int) -> tuple[float, float]:
    """Accuracy and coverage on other images of thresholds that were chosen on so many."""
    rng = np.random.default_rng(count)
    found = [select(drawn(rng, 2000), threshold_for(drawn(rng, count), accuracy).threshold) for _ in range(times)]
    return float(np.mean([s.accuracy for s in found])), float(np.mean([s.coverage for s in found]))


def coverage_of_sets(count: int, coverage: float, times: int) -> float:
    """Share of other images whose true class is in the set."""
    rng = np.random.default_rng(count)
    held = []
    for _ in range(times):
        least, other = conformal_threshold(drawn(rng, count), coverage), drawn(rng, 200)
        held.append((other.probabilities[np.arange(200), other.labels] >= least).mean())
    return float(np.mean(held))


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=2000)
    times = parser.parse_args().times
    print("| promised | of what | held |\n|---|---|---|")
    for classes, images, recall in WORLDS:
        held = macro_f1_coverage(classes, images, recall, times)
        print(f"| 0.95 | macro-F1, {classes} classes, {images} images | {held:.3f} |", flush=True)
    for count, share in ((20, 0.5), (50, 0.9), (400, 0.95)):
        print(f"| 0.95 | accuracy, {count} images | {accuracy_coverage(count, share, 10 * times):.3f} |", flush=True)
    for count in (400, 2000):
        right, covered = accuracy_of_sure(count, 0.9, times // 10)
        print(f"| 0.9 | right of the sure, chosen on {count} (answers {covered:.2f}) | {right:.3f} |", flush=True)
    for count, coverage in ((50, 0.9), (300, 0.8), (300, 0.9), (300, 0.95)):
        held = coverage_of_sets(count, coverage, times // 2)
        print(f"| {coverage} | sets, chosen on {count} | {held:.3f} |", flush=True)


if __name__ == "__main__":
    main()
