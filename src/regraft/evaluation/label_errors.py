"""Find likely wrong labels by confident learning, from probabilities of models that were not trained on the image."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class LabelError:
    """Index of an image with a likely wrong label and of the suggested class, and probabilities of both classes."""

    index: int
    suggested: int
    probability: float
    given: float


def find_label_errors(labels: np.ndarray, probabilities: np.ndarray) -> list[LabelError]:
    """Find images with a likely wrong label, most likely first, by the margin to the most probable other class.

    Every class has at least one label, and each row of the probabilities (N, C) comes from a model that was trained
    without the image. Source: confident learning, Northcutt et al. 2021 (arXiv 1911.00068), in cleanlab's
    implementation.
    """
    from cleanlab.filter import find_label_issues  # imports pandas, which takes two seconds

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # cleanlab warns that it may miss errors in classes with few images
        ranked = find_label_issues(
            labels,
            probabilities,
            filter_by="prune_by_noise_rate",
            return_indices_ranked_by="normalized_margin",
            n_jobs=1,
        )
    errors = []
    for index in ranked:
        row, label = probabilities[index], int(labels[index])
        suggested = int(np.argmax(np.where(np.arange(len(row)) == label, -1.0, row)))
        errors.append(LabelError(int(index), suggested, float(row[suggested]), float(row[label])))
    return errors
