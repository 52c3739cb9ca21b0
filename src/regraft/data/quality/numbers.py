"""Describe the numbers of images, divide them into ranges, and list what may be wrong with them; no image is read."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from regraft.data.dataset import PARTS, Dataset, Sample
from regraft.data.labels import number_text, quantile_bins
from regraft.data.quality.finding import Finding
from regraft.data.strings import Names
from regraft.text import pluralize

#: Distance from the quartiles, in interquartile ranges, from which on Tukey calls a value far out.
_FAR_OUT = 3.0
#: Difference of the numbers of nearly the same picture, in standard deviations of all, from which on they contradict.
_CONFLICT = 0.5
#: Interquartile range of the normal distribution, in standard deviations.
_NORMAL_RANGE = 1.349
#: Share of the images from which on a number that they have in common is reported.
_FREQUENT = 0.5
#: Share of the images up to which numbers far out are likely mistakes; more may be how the numbers are distributed.
_RARE = 0.1
#: Ranges, of as equally many images as possible, and bars of a histogram.
_RANGES, _BARS = 4, 10


def far_out(values: np.ndarray) -> np.ndarray:
    """Whether each value, float64 (N,), is more than three interquartile ranges outside of the quartiles, bool (N,).

    These are the outer fences of Tukey (1977, Exploratory Data Analysis), outside of which are about 2 in a million
    values of a normal distribution. If half of the values are equal there is no such range, and nothing is far out.
    """
    if not len(values):
        return np.zeros(0, bool)
    low, high = np.quantile(values, (0.25, 0.75))
    reach = _FAR_OUT * (high - low)
    return np.asarray((reach > 0) & ((values < low - reach) | (values > high + reach)))


def by_range(dataset: Dataset) -> Dataset:
    """The same images in classes that are ranges of their numbers, in rising order, such as `20 to 34.5`."""
    numbers = dataset.numbers
    bins = quantile_bins(dataset.table.labels, most=_RANGES)
    present = np.unique(bins.codes)
    ends = [(numbers[bins.codes == code].min(), numbers[bins.codes == code].max()) for code in present]
    names = [f"{low:.4g} to {high:.4g}" if high > low else f"{low:.4g}" for low, high in ends]
    if len(set(names)) < len(names):  # four digits do not tell them apart
        names = [f"{number_text(repr(float(low)))} to {number_text(repr(float(high)))}" for low, high in ends]
    labels = Names.of(names[place] for place in np.searchsorted(present, bins.codes).tolist())
    return replace(dataset, samples=dataset.table.with_labels(labels), classes=tuple(names), task="classification")


def describe_numbers(dataset: Dataset) -> dict[str, Any]:
    """The distribution of the numbers, of all images and of each part, as JSON values."""
    parts, numbers = dataset.table.parts, dataset.numbers
    groups = {"all": numbers} | {
        part: numbers[parts == number] for number, part in enumerate(PARTS) if (parts == number).any()
    }
    counts, edges = np.histogram(numbers, _BARS) if len(numbers) else (np.zeros(0, int), np.zeros(0))
    return {
        "quantity": dataset.classes[0],
        "parts": {name: _spread(values) for name, values in groups.items() if len(values)},
        "histogram": {"counts": counts.tolist(), "edges": edges.tolist()},
    }


def _spread(values: np.ndarray) -> dict[str, float]:
    return {
        "images": len(values),
        "least": float(values.min()),
        "median": float(np.median(values)),
        "mean": float(values.mean()),
        "largest": float(values.max()),
        "deviation": float(values.std()),
    }


def robust_deviation(values: np.ndarray) -> float:
    """Standard deviation of a normal distribution with the interquartile range of values, float64 (N,).

    A few wrong values do not change it. It is their standard deviation if half of them are equal; 0 without any.
    """
    if not len(values):
        return 0.0
    low, high = np.quantile(values, (0.25, 0.75))
    return float((high - low) / _NORMAL_RANGE if high > low else values.std())


def contradict(samples: Sequence[Sample], deviation: float) -> bool:
    """Whether copies of one file have different numbers, or near duplicates very different ones.

    `samples` are of one picture: copies and near duplicates of each other. `deviation` is how far the numbers
    of all images spread.
    """
    of_file: dict[str, list[float]] = defaultdict(list)
    for sample in samples:
        of_file[sample.sha256].append(float(sample.label))
    copies_differ = any(len(set(numbers)) > 1 for numbers in of_file.values())
    spread = float(np.ptp([number for numbers in of_file.values() for number in numbers]))
    return copies_differ or spread > _CONFLICT * deviation


def find_outliers(numbers: np.ndarray) -> np.ndarray:
    """Places of the numbers, float64 (N,), that are far out, int64 (n,), the farthest first."""
    judged = _judged(numbers)
    outliers = np.asarray(judged[far_out(numbers[judged])])
    if not len(outliers):
        return outliers
    return np.asarray(outliers[np.argsort(-np.abs(numbers[outliers] - np.median(numbers[judged])), kind="stable")])


def _judged(numbers: np.ndarray) -> np.ndarray:
    """Places of the numbers that are compared: one that half of the images have would leave no range of quartiles."""
    values, counts = np.unique(numbers, return_counts=True)
    frequent = values[(counts >= _FREQUENT * len(numbers)) & (counts > 1)]
    return np.flatnonzero(~np.isin(numbers, frequent))


def number_findings(dataset: Dataset) -> Iterator[Finding]:
    """What may be wrong with the numbers of images, by these alone."""
    numbers, paths, name = dataset.numbers, dataset.table.paths.tolist(), dataset.classes[0]

    def listed(rows: np.ndarray) -> dict[str, tuple[Any, ...]]:
        return {
            "files": tuple((paths[row],) for row in rows.tolist()),
            "details": tuple(f"{name} {dataset.samples[row].label}" for row in rows.tolist()),
        }

    outliers = find_outliers(numbers)
    if len(outliers):
        judged = numbers[_judged(numbers)]
        yield Finding(
            "outlier", "warning" if len(outliers) <= max(1.0, _RARE * len(judged)) else "info",
            f"{pluralize(len(outliers), 'image has a number', 'images have numbers')} far from the others, half of "
            "which are from {:.4g} to {:.4g}.".format(*np.quantile(judged, (0.25, 0.75))),
            "Check units, decimal points and codes for a missing value, such as -1 or 999. If they are right, "
            "--set training.loss=huber keeps them from deciding the fit.",
            **listed(outliers),
        )  # fmt: skip
    parts = dataset.table.parts
    train = numbers[parts == PARTS.index("train")]
    for part in ("val", "test"):
        rows = np.flatnonzero(parts == PARTS.index(part))
        if len(train) and len(outside := rows[(numbers[rows] < train.min()) | (numbers[rows] > train.max())]):
            yield Finding(
                "outside_train", "warning",
                f"{pluralize(len(outside), f'{part} image has a number', f'{part} images have numbers')} outside of "
                f"those of train, {train.min():.4g} to {train.max():.4g}.",
                "A model has not seen such images, and its errors on them say little about others. Split again "
                "(regraft split), or add images to train.",
                **listed(outside),
            )  # fmt: skip
    ((label, count),) = Counter(sample.label for sample in dataset.samples).most_common(1) or [("", 0)]
    if count >= _FREQUENT * len(numbers) and count > 1:
        yield Finding(
            "frequent_number", "info",
            f"{100 * count / len(numbers):.0f} % of the images have the number {label}.",
            "A mean error is mostly theirs: look at predicted over true numbers, too. Check that it does not stand for "
            "a missing value.",
        )  # fmt: skip
