"""How often reports claim wrongly, on simulated small test sets whose truth is known.

    python benchmarks/claims.py [--times 2000] [--record]

Each line draws that many test sets, and counts those on which a claim is made that is not true: of a calibrated model
that it is miscalibrated, of one that is no better than the most frequent class that it is, of two equal models that one
is better, and of labels that they are wrong by a model that guesses. The last column is how often the claim is made
where it is true. `tests/evaluation/test_claims.py` runs the same with fewer sets.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
from evidence import save, take_flag

from regraft.evaluation.calibration import apply_temperature, measure_calibration
from regraft.evaluation.comparison import SIGNIFICANT, holm, paired_difference
from regraft.evaluation.label_errors import find_label_errors
from regraft.evaluation.majority import compare_with_majority
from regraft.evaluation.metrics import confusion_matrix
from regraft.evaluation.predictions import Predictions

#: Number of images and of classes.
SIZES = ((20, 2), (30, 5), (50, 3), (100, 10), (300, 5))


def draw_labels(rng: np.random.Generator, probabilities: np.ndarray) -> np.ndarray:
    """Draw a class from each row."""
    last = probabilities.shape[1] - 1
    return (rng.random((len(probabilities), 1)) > probabilities.cumsum(axis=1)).sum(axis=1).clip(0, last)


def is_called_miscalibrated(rng: np.random.Generator, images: int, classes: int, *, truly: bool) -> bool:
    """A model whose labels are drawn from its probabilities; `truly`: twice as confident."""
    probabilities = rng.dirichlet(np.full(classes, rng.choice([0.1, 0.4, 1.0])), images)
    labels = draw_labels(rng, probabilities)
    shown = apply_temperature(probabilities, 0.4 if truly else 1.0)
    return measure_calibration(Predictions.from_arrays(labels, shown)).is_miscalibrated


def is_called_better_than_majority(rng: np.random.Generator, images: int, classes: int, *, truly: bool) -> bool:
    """A model with the true accuracy of the most frequent class, right in every class as often; `truly`: 25 more."""
    share = rng.uniform(1 / classes, 0.7)
    shares = np.array([share] + [(1 - share) / (classes - 1)] * (classes - 1))
    labels = rng.choice(classes, images, p=shares)
    right = rng.random(images) < share + 0.25 * truly
    predicted = np.where(right, labels, (labels + rng.integers(1, classes, images)) % classes)
    return compare_with_majority(confusion_matrix(labels, predicted, classes)).is_better


def is_a_label_accused(rng: np.random.Generator, images: int, classes: int, *, truly: bool) -> bool:
    """A model that guesses; `truly`: one that knows, and one label of ten is wrong."""
    labels = rng.integers(0, classes, images)
    probabilities = rng.dirichlet(np.full(classes, 0.5), images)
    if truly:
        probabilities[np.arange(images), labels] += 2
        probabilities /= probabilities.sum(axis=1, keepdims=True)
        wrong = rng.choice(images, images // 10, replace=False)
        labels[wrong] = (labels[wrong] + rng.integers(1, classes, len(wrong))) % classes
    confusion = confusion_matrix(labels, probabilities.argmax(axis=1), classes)
    has_all = len(np.unique(labels)) == classes
    return has_all and compare_with_majority(confusion).is_better and bool(find_label_errors(labels, probabilities))


def is_one_called_better(rng: np.random.Generator, images: int, classes: int, *, truly: bool, models: int = 2) -> bool:
    """Equally good models that agree on some images; `truly`: the first is 15 points better."""
    labels = rng.integers(0, classes, images)
    accuracy, shared = rng.uniform(0.5, 0.8), rng.uniform(0, 0.8)
    luck = rng.random(images)  # how hard an image is for all models
    predictions = []
    for number in range(models):
        own = np.where(rng.random(images) < shared, luck, rng.random(images))
        right = own < accuracy + (0.15 if truly and number == 0 else 0.0)
        predicted = np.where(right, labels, (labels + 1) % classes)
        predictions.append(Predictions.from_arrays(labels, np.eye(classes)[predicted]))
    pairs = [(i, j) for i in range(models) for j in range(i)]
    p_values = holm([paired_difference(predictions[i], predictions[j]).p for i, j in pairs])
    return min(p_values) < SIGNIFICANT


def is_one_of_four_called_better(rng: np.random.Generator, images: int, classes: int, *, truly: bool) -> bool:
    """The same among four models."""
    return is_one_called_better(rng, images, classes, truly=truly, models=4)


CLAIMS: dict[str, Callable[..., bool]] = {
    "the model is miscalibrated": is_called_miscalibrated,
    "the model is better than the most frequent class": is_called_better_than_majority,
    "a label is wrong": is_a_label_accused,
    "one of two models is better": is_one_called_better,
    "one of four models is better": is_one_of_four_called_better,
}


def share_claimed(claim: str, images: int, classes: int, times: int, *, truly: bool = False) -> float:
    """Share of simulated test sets on which the claim is made, where it is wrong or, with `truly`, right."""
    rng = np.random.default_rng([images, classes, truly])
    return float(np.mean([CLAIMS[claim](rng, images, classes, truly=truly) for _ in range(times)]))


def main() -> None:
    """Count the wrong claims and print a Markdown table."""
    record = take_flag()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=2000)
    times = parser.parse_args().times
    wrong: dict[str, list[float]] = {}
    facts: dict[str, dict[str, str]] = {}
    print("| claim | made where it is wrong (%) | where it is right |\n|---|---|---|")
    for claim in CLAIMS:
        for images, classes in SIZES:
            label = f"{claim}: {images} images, {classes} classes"
            share = 100 * share_claimed(claim, images, classes, times)
            power = share_claimed(claim, images, classes, times // 10, truly=True)
            wrong[label], facts[label] = [share], {"made_where_it_is_right": f"{100 * power:.0f} %"}
            print(f"| {label} | {share:.2f} | {power:.0%} |", flush=True)
    if record:
        save("claims", wrong, unit="% made where it is wrong", facts=facts)


if __name__ == "__main__":
    main()
