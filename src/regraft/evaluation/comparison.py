"""Whether one model is better than another: paired, on the same images.

Enters: `Predictions` of several models for the same images. Leaves: differences with intervals, and probabilities of
such differences by chance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from regraft.errors import DataError
from regraft.evaluation.predictions import Predictions

#: Below it a difference is taken for more than chance.
SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Difference:
    """The accuracy of one model less that of another on the same images.

    Attributes:
        accuracy: The difference, -1..1.
        interval: 95 % interval, (low, high), by Bonett and Price 2012 ("Adjusted Wald Confidence Interval for a
            Difference of Binomial Proportions Based on Paired Data", Journal of Educational and Behavioral Statistics
            37, 479-488).
        only_first: Images that the first alone has right.
        only_second: Images that the second alone has right.
        count: Images.
        p: Probability of so large a difference by chance, 0..1, by McNemar's exact test (1947, Psychometrika 12).
    """

    accuracy: float
    interval: tuple[float, float]
    only_first: int
    only_second: int
    count: int
    p: float

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self) | {"interval": list(self.interval)}


def paired_difference(first: Predictions, second: Predictions) -> Difference:
    """Compare two models image by image.

    Args:
        first: N images.
        second: The same images, known by their ids, in any order.

    Raises:
        DataError: There are no images, or they or their labels differ.
    """
    if not len(first):
        raise DataError("0 predictions; expected at least one image to compare by")
    place = {name: i for i, name in enumerate(second.ids)}
    if len(place) != len(second) or set(first.ids) != set(place) or len(first) != len(second):
        shared = len(set(first.ids) & set(place))
        raise DataError(
            f"Predictions of {len(first)} and {len(second)} images, {shared} of them the same; expected all."
        )
    order = np.array([place[name] for name in first.ids])
    truth = [second.classes[label] for label in second.labels[order]]
    if truth != [first.classes[label] for label in first.labels]:
        raise DataError("The two say different things about what the images show; expected the same labels.")
    right = first.predicted == first.labels, (second.predicted == second.labels)[order]
    return difference_of(int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum()), len(first))


def difference_of(only_first: int, only_second: int, count: int) -> Difference:
    """The difference from how many of `count` images one alone has right."""
    from scipy.stats import binomtest  # takes a third of a second to import

    apart = only_first + only_second
    p = float(binomtest(only_first, apart, 0.5).pvalue) if apart else 1.0
    one, other = (only_first + 1) / (count + 2), (only_second + 1) / (count + 2)
    middle, spread = one - other, ((one + other - (one - other) ** 2) / (count + 2)) ** 0.5
    margin = NormalDist().inv_cdf(0.975) * spread
    return Difference(
        accuracy=(only_first - only_second) / count,
        interval=(max(-1.0, middle - margin), min(1.0, middle + margin)),
        only_first=only_first,
        only_second=only_second,
        count=count,
        p=p,
    )


def holm(probabilities: Sequence[float]) -> list[float]:
    """Probabilities of chance, corrected for how many comparisons were made.

    With them, the chance of one false claim among all comparisons stays below the level (Holm 1979, Scandinavian
    Journal of Statistics 6, 65-70).

    Args:
        probabilities: 0..1, of n tests.

    Returns:
        In the same order, each at least as large as before, at most 1.
    """
    order = np.argsort(probabilities, kind="stable")
    corrected, highest = [0.0] * len(probabilities), 0.0
    for rank, number in enumerate(order.tolist()):
        highest = max(highest, min(1.0, (len(probabilities) - rank) * probabilities[number]))
        corrected[number] = highest
    return corrected
