"""Coverage of intervals, thresholds and prediction sets on simulated data, whose true values are known.

    python benchmarks/promises.py [--times 2000] [--record]

Each simulated distribution has classes of different sizes and recalls, and gives one test set. The tests run the same
functions with fewer draws (`tests/evaluation/test_intervals.py`, `test_abstention.py`).
"""

from __future__ import annotations

import argparse

import numpy as np
from evidence import save, take_flag

from regraft.evaluation.abstention import conformal_threshold, select, threshold_for
from regraft.evaluation.intervals import draw_counts, interval_about, wilson_interval
from regraft.evaluation.predictions import Predictions

#: Number of classes, number of images, and approximate recall.
DISTRIBUTIONS = ((2, 50, 0.95), (2, 200, 0.9), (10, 100, 0.8), (10, 500, 0.9), (100, 1000, 0.8))


def macro_f1(right: np.ndarray, support: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Macro-F1, implemented independently of the package."""
    there = support + chosen > 0
    return np.asarray(np.where(there, 2 * right / np.where(there, support + chosen, 1), 0).sum(-1) / there.sum(-1))


def macro_f1_of_matrix(matrix: np.ndarray) -> float:
    """Macro-F1 of a confusion matrix, in images or in probabilities."""
    right, support, chosen = (np.array(v, float)[None] for v in (np.diag(matrix), matrix.sum(1), matrix.sum(0)))
    return float(macro_f1(right, support, chosen)[0])


def draw_distribution(rng: np.random.Generator, classes: int, recall: float) -> np.ndarray:
    """Draw the probability of each pair of true and predicted class, (C, C)."""
    shares = rng.dirichlet(np.full(classes, 20.0))
    found = np.clip(rng.beta(20 * recall, 20 * (1 - recall), classes), 0.05, 0.999)
    pairs = np.zeros((classes, classes))
    for i in range(classes):
        pairs[i, np.arange(classes) != i] = shares[i] * (1 - found[i]) * rng.dirichlet(np.full(classes - 1, 0.5))
        pairs[i, i] = shares[i] * found[i]
    return pairs


def macro_f1_coverage(classes: int, images: int, recall: float, times: int) -> float:
    """Share of distributions whose macro-F1 is in the interval of a test set drawn from them."""
    rng = np.random.default_rng(classes + images)
    inside = 0
    for seed in range(times):
        pairs = draw_distribution(rng, classes, recall)
        matrix = rng.multinomial(images, pairs.ravel()).reshape(classes, classes)
        draws = np.concatenate([macro_f1(*draw) for draw in draw_counts(matrix, seed=seed)])
        low, high = interval_about(macro_f1_of_matrix(matrix), draws)
        inside += bool(low <= macro_f1_of_matrix(pairs) <= high)
    return inside / times


def accuracy_coverage(count: int, share: float, times: int) -> float:
    """Share of draws whose Wilson interval contains the true share."""
    hits = np.random.default_rng(count).binomial(count, share, times)
    ends = np.array([wilson_interval(int(hit), count) for hit in hits])
    return float(np.mean((ends[:, 0] <= share) & (share <= ends[:, 1])))


def draw_predictions(rng: np.random.Generator, count: int, classes: int = 4) -> Predictions:
    """Draw probabilities, and labels from them."""
    probabilities = rng.dirichlet(np.full(classes, 0.4), count)
    labels = (rng.random((count, 1)) > probabilities.cumsum(axis=1)).sum(axis=1).clip(0, classes - 1)
    return Predictions.from_arrays(labels, probabilities)


def accuracy_of_accepted(count: int, accuracy: float, times: int) -> tuple[float, float]:
    """Accuracy and coverage, on other images, of thresholds selected on `count` images."""
    rng = np.random.default_rng(count)
    found = [
        select(draw_predictions(rng, 2000), threshold_for(draw_predictions(rng, count), accuracy).threshold)
        for _ in range(times)
    ]
    return float(np.mean([s.accuracy for s in found])), float(np.mean([s.coverage for s in found]))


def coverage_of_sets(count: int, coverage: float, times: int) -> float:
    """Share of other images whose prediction set contains the true class."""
    rng = np.random.default_rng(count)
    held = []
    for _ in range(times):
        least, other = conformal_threshold(draw_predictions(rng, count), coverage), draw_predictions(rng, 200)
        held.append((other.probabilities[np.arange(200), other.labels] >= least).mean())
    return float(np.mean(held))


def main() -> None:
    """Measure the coverage and print a Markdown table."""
    record = take_flag()
    held_of: dict[str, list[float]] = {}
    facts: dict[str, dict[str, str]] = {}

    def show(promised: float, label: str, held: float, more: str = "") -> None:
        held_of[label], facts[label] = [held], {"promised": f"{promised}{more}"}
        print(f"| {promised} | {label}{more} | {held:.3f} |", flush=True)

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=2000)
    times = parser.parse_args().times
    print("| nominal | quantity | coverage |\n|---|---|---|")
    for classes, images, recall in DISTRIBUTIONS:
        held = macro_f1_coverage(classes, images, recall, times)
        show(0.95, f"interval of macro-F1, {classes} classes, {images} images", held)
    for count, share in ((20, 0.5), (50, 0.9), (400, 0.95)):
        show(0.95, f"interval of an accuracy of {share}, {count} images", accuracy_coverage(count, share, 10 * times))
    for count in (400, 2000):
        right, covered = accuracy_of_accepted(count, 0.9, times // 10)
        show(0.9, f"accuracy above a threshold chosen on {count} images", right, f" (answers {covered:.0%})")
    for count, coverage in ((50, 0.9), (300, 0.8), (300, 0.9), (300, 0.95)):
        held = coverage_of_sets(count, coverage, times // 2)
        show(coverage, f"{coverage:.0%} prediction sets, calibrated on {count} images", held)
    if record:
        save("promises", held_of, unit="share held", facts=facts)


if __name__ == "__main__":
    main()
