"""Compare the accuracy of two models on the same images, from their predictions; of several labels the exact match."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any, Protocol

import numpy as np

from regraft.errors import DataError

#: Significance level.
SIGNIFICANT = 0.05


class ImagePredictions(Protocol):
    """Predictions that are right or wrong as a whole: of one class, or of all classes that an image has."""

    @property
    def ids(self) -> Sequence[str]:
        """Name of each image."""
        ...

    @property
    def right(self) -> np.ndarray:
        """Whether the prediction of each image is right, bool (N,)."""
        ...

    @property
    def label_names(self) -> list[str]:
        """The label of each image as one text."""
        ...

    def __len__(self) -> int:
        """Number of images."""
        ...


@dataclass(frozen=True)
class Difference:
    """Accuracy of a first model minus that of a second on the same images, -1..1."""

    accuracy: float
    interval: tuple[float, float]  # 95 %, Bonett and Price 2012, J. Educational and Behavioral Statistics 37
    only_first: int  # images that only the first predicts correctly
    only_second: int
    count: int
    p: float  # p-value of McNemar's exact test (1947, Psychometrika 12)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self) | {"interval": list(self.interval)}


def paired_difference(first: ImagePredictions, second: ImagePredictions) -> Difference:
    """Compare two models by image id; DataError if there are no images, or the images or their labels differ."""
    order = matching_rows(first.ids, second.ids)
    truth = second.label_names
    if [truth[i] for i in order] != first.label_names:
        raise DataError("The two predictions have different labels for the same images; expected equal labels.")
    correct = first.right, second.right[order]
    return difference_of(int((correct[0] & ~correct[1]).sum()), int((correct[1] & ~correct[0]).sum()), len(first))


def matching_rows(first: Sequence[str], second: Sequence[str]) -> np.ndarray:
    """For each image of the first predictions its row in the second, int64 (N,); DataError unless both have all."""
    if not len(first):
        raise DataError("0 predictions; expected at least one image to compare")
    row = {name: i for i, name in enumerate(second)}
    if len(row) != len(second) or set(first) != set(row) or len(first) != len(second):
        shared = len(set(first) & set(row))
        raise DataError(f"Predictions of {len(first)} and {len(second)} images have {shared} in common; expected all.")
    return np.array([row[name] for name in first])


def of_draws(difference: float, drawn: np.ndarray) -> tuple[tuple[float, float], float]:
    """The 95 % interval of a difference and its two-sided p-value, from bootstrap draws of it, (b,).

    The draws are shifted, as for all intervals of the bootstrap here, to have the estimate as their median.
    """
    low, middle, high = np.quantile(drawn, (0.025, 0.5, 0.975)).tolist()
    shifted = drawn + difference - middle
    opposite = min(int((shifted <= 0).sum()), int((shifted >= 0).sum()))
    p = min(1.0, 2 * (opposite + 1) / (len(drawn) + 1))
    return (difference + low - middle, difference + high - middle), p


def difference_of(only_first: int, only_second: int, count: int) -> Difference:
    """Compute the difference from the number of images that only one model predicts correctly, out of `count`."""
    from scipy.special import bdtr  # scipy.stats has the test, and takes half a second more to import

    discordant = only_first + only_second
    p = min(1.0, 2 * float(bdtr(min(only_first, only_second), discordant, 0.5)))
    first, second = (only_first + 1) / (count + 2), (only_second + 1) / (count + 2)
    center, error = first - second, ((first + second - (first - second) ** 2) / (count + 2)) ** 0.5
    margin = NormalDist().inv_cdf(0.975) * error
    interval = max(-1.0, center - margin), min(1.0, center + margin)
    return Difference((only_first - only_second) / count, interval, only_first, only_second, count, p)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values for multiple comparisons (Holm 1979, Scandinavian Journal of Statistics 6); the order stays."""
    order = np.argsort(p_values, kind="stable")
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order.tolist()):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted
