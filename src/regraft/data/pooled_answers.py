"""The answer for a group of images: that of the mean of their logits, from what a model says of each image.

The logits of a class are known up to a constant of the image where probabilities are a softmax, and exactly where each
is a sigmoid. So the softmax of the mean logits is the normalized geometric mean of the probabilities, at every
temperature, and no model needs to give more than probabilities. Of classes with an order it is the mean of the
cumulative logits, those of the classes above each class against the others, from probabilities without temperature.

A sigmoid has no digits left near 1: of 1.0 in float32, the logit may be 17 or 100. So logits of several labels are
bounded, alike on both sides: to 15.9 where the answers are those of float32, as of an export, and to 36 otherwise.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from regraft.data.labels import Task
from regraft.data.pooling import Groups


def pool_answers(
    answers: np.ndarray, groups: Groups, task: Task, *, order_temperature: float | None = None
) -> np.ndarray:
    """What a model says of each group, float64 (G, C), from what it says of N images, (N, C).

    Answers are probabilities whose rows sum to 1 (`classification`), those of each class by itself (`multilabel`), or
    numbers (`regression`), of which it is the mean. Those of a group of one image are its own. Where classes have an
    order, `order_temperature` is that of the probabilities; None: they have none.
    """
    if task == "regression":
        pooled = groups.mean(answers)
    elif task == "multilabel":
        nearest = _precision_of(answers).eps
        inside = np.clip(answers.astype(np.float64), nearest, 1 - nearest)
        odds = np.log(inside) - np.log1p(-inside)
        pooled = 1 / (1 + np.exp(-groups.mean(odds)))
    else:
        logs = np.log(np.maximum(answers.astype(np.float64), _precision_of(answers).tiny))
        if order_temperature is None:
            logits = groups.mean(logs)
        else:
            logits = pool_ordered(order_temperature * logs, groups) / order_temperature
        shares = np.exp(logits - logits.max(axis=1, keepdims=True))
        pooled = shares / shares.sum(axis=1, keepdims=True)
    single = groups.sizes == 1
    pooled[single] = answers[groups.firsts[single]]
    return np.asarray(pooled)


def pool_ordered(log_probabilities: np.ndarray, groups: Groups) -> np.ndarray:
    """Log-probabilities of each group, float64 (G, C), from those of N images at temperature 1, (N, C).

    The classes have an order, and the model is that of `regraft.models.cumulative`, whose cumulative logits are linear:
    their mean is that of the mean features. Those of an image may have a constant more.
    """
    logs = log_probabilities.astype(np.float64)
    lower = np.logaddexp.accumulate(logs, axis=1)[:, :-1]  # of the first classes, then of the last
    upper = np.logaddexp.accumulate(logs[:, ::-1], axis=1)[:, -2::-1]
    cumulative = groups.mean(upper - lower)
    above, below = -np.logaddexp(0, -cumulative), -np.logaddexp(0, cumulative)
    gaps = np.maximum(cumulative[:, :-1] - cumulative[:, 1:], np.finfo(np.float64).tiny)
    pooled = np.zeros((len(groups), logs.shape[1]))
    pooled[:, 1:] += above
    pooled[:, :-1] += below
    pooled[:, 1:-1] += np.log(-np.expm1(-gaps))  # as in `regraft.models.cumulative.log_probabilities`
    return pooled


def _precision_of(probabilities: np.ndarray) -> np.finfo[Any]:
    """The limits of the numbers that probabilities were computed in: float32 if that has each of them, else float64."""
    with np.errstate(under="ignore"):
        is_float32 = np.array_equal(probabilities, probabilities.astype(np.float32))
    return np.finfo(np.float32 if is_float32 else np.float64)


def pool_p_values(p_values: np.ndarray, groups: Groups) -> np.ndarray:
    """The p-value of each group, float64 (G,), from those of N images: Bonferroni's, n times the smallest, at most 1.

    A group is unlike the training images if one of its images is; of groups like them at most a share p has a p-value
    of p or less, whatever the images of a group have in common.
    """
    smallest = np.ones(len(groups))
    np.minimum.at(smallest, groups.numbers, p_values)
    return np.asarray(np.minimum(1.0, smallest * groups.sizes))
