"""Likely wrong labels, by confident learning.

Enters: labels, and probabilities from models that did not see the image. Leaves: the images whose label is likely
wrong, the likeliest first.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class LabelError:
    """An image whose label is likely wrong.

    Attributes:
        index: Of the image.
        suggested: Index of the class that it looks like.
        probability: Of that class, 0 to 1.
        given: Probability of the class that the label says, 0 to 1.
    """

    index: int
    suggested: int
    probability: float
    given: float


def find_label_errors(labels: np.ndarray, probabilities: np.ndarray) -> list[LabelError]:
    """Images whose label is likely wrong.

    Args:
        labels: int64 (N,); every class has at least one image.
        probabilities: (N, C), each row from a model that was trained without the image.

    Returns:
        The likeliest first: by the label's probability less that of the likeliest other class.

    Source: confident learning, Northcutt et al. 2021 (arXiv 1911.00068), as cleanlab implements it.
    """
    from cleanlab.filter import find_label_issues  # brings pandas along, which takes two seconds

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says of classes with few images that it may miss some
        ranked = find_label_issues(
            labels,
            probabilities,
            filter_by="prune_by_noise_rate",
            return_indices_ranked_by="normalized_margin",
            n_jobs=1,
        )
    found = []
    for index in ranked:
        row, label = probabilities[index], int(labels[index])
        suggested = int(np.argmax(np.where(np.arange(len(row)) == label, -1.0, row)))
        found.append(LabelError(int(index), suggested, float(row[suggested]), float(row[label])))
    return found
