"""Find likely wrong labels, from probabilities of models that were not trained on the image.

Confident learning proposes them. It takes every confident contradiction for a wrong label, so that a weak model, whose
own mistakes contradict labels too, accuses a large part of the data. What is listed is therefore bounded by a model of
both: only labels that are more probably wrong than right.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np

#: Least probability that a listed label is wrong, so that at least half of the list is expected to be.
_LEAST_PROBABILITY = 0.5
#: Twice the gain in log-likelihood from which wrong labels are believed in. In simulations without any, of 20 to 300
#: images and models of every calibration, 3 to 6 % of the data sets reach it.
_LEAST_EVIDENCE = 1.4
#: Exponents of the model's probabilities and shares of wrong labels that are tried, and most images that choose them.
_EXPONENTS, _SHARES, _MOST_IMAGES = np.geomspace(0.25, 4, 33), np.geomspace(0.001, 0.6, 48), 20_000


@dataclass(frozen=True)
class LabelError:
    """Index of an image with a likely wrong label and of the suggested class, and probabilities of both classes."""

    index: int
    suggested: int
    probability: float
    given: float


def find_label_errors(labels: np.ndarray, probabilities: np.ndarray, *, tests: int = 1) -> list[LabelError]:
    """Find images with a likely wrong label, most likely first, by the margin to the most probable other class.

    Every class has at least one label, and each row of the probabilities (N, C) comes from a model that was trained
    without the image. Sources: confident learning, Northcutt et al. 2021 (arXiv 1911.00068), in cleanlab's
    implementation; of what it finds, the labels that `probability_of_wrong_label` gives more than one half, which is
    asked about so many `tests` of one data set.
    """
    is_wrong = probability_of_wrong_label(labels, probabilities, tests=tests) > _LEAST_PROBABILITY
    if not is_wrong.any():
        return []
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
    for index in ranked[is_wrong[ranked]]:
        row, label = probabilities[index], int(labels[index])
        suggested = int(np.argmax(np.where(np.arange(len(row)) == label, -1.0, row)))
        errors.append(LabelError(int(index), suggested, float(row[suggested]), float(row[label])))
    return errors


def probability_of_wrong_label(labels: np.ndarray, probabilities: np.ndarray, *, tests: int = 1) -> np.ndarray:
    """The probability that each given label is wrong, float64 (N,), for labels int64 (N,) and probabilities (N, C).

    A share e of the labels is wrong, drawn from the other classes alike, and the right class of image x is y with
    q(y) proportional to p(y)^a, where p are the model's probabilities: a temperature makes up for its own doubt and
    for what wrong labels have taught it. The given label then has the probability (1 - e) q(y) + e (1 - q(y)) /
    (C-1), and by Bayes' rule it is right with (1 - e) q(y) over that. Maximum likelihood chooses e and a. It takes
    labels for wrong (e > 0) only where contradictions are more frequent among confident predictions than the
    model's own doubt explains; where that may be chance, all probabilities are 0. The noise is that of Natarajan et
    al. 2013 (NeurIPS 26), here of any class alike. Of several `tests`, each needs the evidence that chance gives as
    many times more rarely (Bonferroni).
    """
    count, classes = probabilities.shape
    logs = np.log(np.clip(probabilities, 1e-12, 1.0))
    chosen = np.unique(np.linspace(0, count - 1, min(count, _MOST_IMAGES)).astype(np.int64))
    shares = np.concatenate([[0.0], _SHARES[1 - 1 / classes >= _SHARES]])
    best, best_without = (-np.inf, 1.0, 0.0), -np.inf
    for exponent in _EXPONENTS:
        right = _probability_of_label(labels[chosen], logs[chosen], exponent)[:, None]
        given = (1 - shares) * right + shares * (1 - right) / (classes - 1)
        likelihood = np.log(np.maximum(given, 1e-300)).sum(axis=0)
        share = int(likelihood.argmax())
        best = max(best, (float(likelihood[share]), float(exponent), float(shares[share])))
        best_without = max(best_without, float(likelihood[0]))
    highest, exponent, wrong = best
    if 2 * (highest - best_without) < _least_evidence(tests):
        return np.zeros(count)
    right = (1 - wrong) * _probability_of_label(labels, logs, exponent)
    other = wrong * (1 - right / (1 - wrong)) / (classes - 1)
    return np.asarray(other / np.maximum(right + other, 1e-300))


def _least_evidence(tests: int) -> float:
    """`_LEAST_EVIDENCE` for each of several tests; by chance, half of the gains have one degree of freedom."""
    from scipy.special import chdtrc, chdtri  # scipy.stats takes half a second more to import

    return _LEAST_EVIDENCE if tests == 1 else float(chdtri(1, chdtrc(1, _LEAST_EVIDENCE) / tests))


def _probability_of_label(labels: np.ndarray, logs: np.ndarray, exponent: float) -> np.ndarray:
    powers = np.exp(exponent * (logs - logs.max(axis=1, keepdims=True)))
    return np.asarray(powers[np.arange(len(labels)), labels] / powers.sum(axis=1))
