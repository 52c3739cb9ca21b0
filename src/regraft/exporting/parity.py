"""The parity gate: compares an export with its model on the same image files, each in its own runtime."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Literal

import numpy as np

from regraft.evaluation.comparison import difference_of

#: Distance from its threshold up to which a label is undecided: the largest difference of a float32 export.
_NEAR = 1e-4
#: Bootstrap draws of a difference of F1.
_DRAWS = 1000
#: The metric of each task, as people write it.
METRIC_NAMES = {"accuracy": "accuracy", "micro_f1": "micro-F1", "r2": "R2"}
#: Difference of two numbers, in standard deviations, up to which they count as the same answer.
_SAME_NUMBER = 0.01
#: Loss of R2 that differences within the limit of float32 can make, and more.
_SLACK_OF_R2 = 1e-3


@dataclass(frozen=True)
class Limits:
    """Limits, 0..1: lowest share of equal answers, largest difference of a probability, largest loss of the metric."""

    agreement: float
    difference: float
    accuracy: float


#: Limits for an export beside its run.
EXPORT_LIMITS: Mapping[str, Limits] = {
    "fp32": Limits(1.0, 1e-4, 0.0), "fp16": Limits(0.99, 0.05, 0.01), "int8": Limits(0.0, 1.0, 0.01),
}  # fmt: skip
#: Limits for an export beside its own earlier probabilities, perhaps on another machine: processors sum numbers of
#: fewer bits in different ways.
VERIFY_LIMITS: Mapping[str, Limits] = {**EXPORT_LIMITS, "int8": Limits(0.0, 0.15, 1.0)}


@dataclass(frozen=True)
class Parity:
    """Comparison of an export with its model on the same images; shares, differences and scores are 0..1.

    `agreement` is the share of images with the same predicted class; where an image has any number of labels, the share
    of the same answers for all images and classes. `metric` is then the micro-F1, else the accuracy, `score` that of
    the export. Numbers are compared in standard deviations of the true ones: they agree up to a hundredth, and the
    metric is R2. `score_difference` is the export's minus the model's, with its 95 % interval: by Bonett and Price (see
    `evaluation.comparison`), and of the micro-F1 by the Bayesian bootstrap over the images. `differing` names the
    images with another answer, or with a difference beyond the limit, the largest difference first.
    """

    precision: str
    images: int
    agreement: float
    largest_difference: float
    metric: Literal["accuracy", "micro_f1", "r2"]
    score: float
    model_score: float
    score_difference: float
    score_interval: tuple[float, float]
    differing: tuple[str, ...]
    limits: Limits

    @property
    def exceeded_limits(self) -> list[str]:
        """The limits that are exceeded, each as a phrase; empty if the export passes."""
        limits, exceeded = self.limits, []
        if self.agreement < limits.agreement:
            exceeded.append(
                f"{100 * self.agreement:.2f} % of the predictions agree (limit {100 * limits.agreement:g} %)"
            )
        if not self.largest_difference <= limits.difference:  # NaN fails as well
            what = "a number differs by, in standard deviations," if self.metric == "r2" else "a probability differs by"
            exceeded.append(f"{what} {self.largest_difference:.2g} (limit {limits.difference:g})")
        # R2 changes with every bit of a number, and an accuracy only where a class changes.
        slack = _SLACK_OF_R2 if self.metric == "r2" else 1e-12
        if self.score_difference < -limits.accuracy - slack:
            loss = -100 * self.score_difference
            exceeded.append(f"{METRIC_NAMES[self.metric]} is {loss:.2f} points lower (limit {100 * limits.accuracy:g})")
        return exceeded

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values, with the limits and those that are exceeded; the scores have the metric's name."""
        values, name = asdict(self), self.metric
        scores = {key: values.pop(key) for key in ("score", "model_score", "score_difference", "score_interval")}
        return (
            values
            | {key.replace("score", name): score for key, score in scores.items()}
            | {
                f"{name}_interval": list(self.score_interval),
                "differing": list(self.differing),
                "largest_difference": self.largest_difference if math.isfinite(self.largest_difference) else None,
                "faults": self.exceeded_limits,
            }
        )


def compare_predictions(
    names: Sequence[str], labels: np.ndarray, model: np.ndarray, export: np.ndarray, precision: str,
    limits: Limits | None = None, thresholds: Sequence[float] = (), deviation: float | None = None,
) -> Parity:  # fmt: skip
    """Compare the probabilities (N, C) of a model and of its export for N >= 1 images.

    Labels are class indices, int64 (N,). With `thresholds`, (C,), an image has any number of labels, which are then
    indicators, bool (N, C). With `deviation`, the standard deviation of the true numbers, these are the labels, float64
    (N,), and `model` and `export` are numbers (N, 1). `limits` are by default those of `EXPORT_LIMITS` for the
    precision.
    """
    limits = limits or EXPORT_LIMITS[precision]
    differences = np.abs(export.astype(np.float64) - model).max(axis=1)
    differences = np.where(np.isnan(differences), np.inf, differences)
    compare = _compare_classes if not thresholds else partial(_compare_labels, thresholds=np.array(thresholds))
    if deviation is not None:
        differences, compare = differences / deviation, partial(_compare_numbers, deviation=deviation)
    same, score = compare(labels, model, export)
    differing = np.flatnonzero(~same.reshape(len(same), -1).all(axis=1) | (differences > limits.difference))
    return Parity(
        precision=precision, images=len(names), agreement=float(same.mean()),
        largest_difference=float(differences.max()), **score, limits=limits,
        differing=tuple(names[i] for i in differing[np.argsort(-differences[differing], kind="stable")]),
    )  # fmt: skip


def same_answers(
    model: np.ndarray, export: np.ndarray, thresholds: Sequence[float] = (), deviation: float | None = None
) -> np.ndarray:
    """Whether probabilities (N, C) mean the same: the predicted class, bool (N,), or each label, bool (N, C).

    A label is the same if both probabilities are nearer to its threshold than `_NEAR`, where numbers of 32 bits do not
    decide. (Thresholds lie between two probabilities of the validation images, which may be close.) Numbers, (N, 1),
    with this standard deviation are the same if they differ by a hundredth of it at most, bool (N,).
    """
    if deviation is not None:
        return np.asarray(np.abs(model - export)[:, 0] <= _SAME_NUMBER * deviation)
    if not thresholds:
        return np.asarray(model.argmax(axis=1) == export.argmax(axis=1))
    limits = np.array(thresholds)
    undecided = np.maximum(np.abs(model - limits), np.abs(export - limits)) <= _NEAR
    return np.asarray(undecided | ((model >= limits) == (export >= limits)))


def _compare_classes(labels: np.ndarray, model: np.ndarray, export: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
    """Whether the predicted classes are equal, bool (N,), and the accuracies."""
    model_right, export_right = model.argmax(axis=1) == labels, export.argmax(axis=1) == labels
    gained, lost = int((export_right & ~model_right).sum()), int((model_right & ~export_right).sum())
    change = difference_of(gained, lost, len(labels))
    return same_answers(model, export), {
        "metric": "accuracy", "score": float(export_right.mean()), "model_score": float(model_right.mean()),
        "score_difference": change.accuracy, "score_interval": change.interval,
    }  # fmt: skip


def _compare_numbers(
    truth: np.ndarray, model: np.ndarray, export: np.ndarray, deviation: float
) -> tuple[np.ndarray, dict[str, Any]]:
    """Whether the numbers are equal, bool (N,), and R2, with this standard deviation of the true numbers."""
    errors = ((np.stack([export, model])[:, :, 0] - truth) / deviation) ** 2

    def r2(weights: np.ndarray) -> np.ndarray:
        """R2 of export and model, (2, b), for weights of the images (b, N) that add up to 1."""
        return np.asarray(1 - errors @ weights.T)

    estimate = r2(np.full((1, len(truth)), 1 / len(truth)))[:, 0]
    weights = np.random.default_rng(0).standard_exponential((_DRAWS, len(truth)))
    draws = r2(weights / weights.sum(axis=1, keepdims=True))
    low, high = np.quantile(draws[0] - draws[1], (0.025, 0.975)).tolist()
    return same_answers(model, export, deviation=deviation), {
        "metric": "r2", "score": float(estimate[0]), "model_score": float(estimate[1]),
        "score_difference": float(estimate[0] - estimate[1]), "score_interval": (low, high),
    }  # fmt: skip


def _compare_labels(
    truth: np.ndarray, model: np.ndarray, export: np.ndarray, thresholds: np.ndarray
) -> tuple[np.ndarray, dict[str, Any]]:
    """Whether the answers for each class are equal, bool (N, C), and the micro-F1s."""
    same, said = same_answers(model, export, thresholds.tolist()), model >= thresholds
    answers = np.stack([np.where(same, said, ~said), said])
    hits, all_said = (truth & answers).sum(axis=2), truth.sum(axis=1) + answers.sum(axis=2)

    def f1(weights: np.ndarray) -> np.ndarray:
        """Micro-F1 of export and model, (2, b), for weights of the images (b, N); 0 without any label."""
        return np.asarray(2 * hits @ weights.T / np.maximum(all_said @ weights.T, 1e-300))

    estimate = f1(np.ones((1, len(truth))))[:, 0]
    draws = f1(np.random.default_rng(0).standard_exponential((_DRAWS, len(truth))))
    low, high = np.quantile(draws[0] - draws[1], (0.025, 0.975)).tolist()
    return same, {
        "metric": "micro_f1", "score": float(estimate[0]), "model_score": float(estimate[1]),
        "score_difference": float(estimate[0] - estimate[1]), "score_interval": (low, high),
    }  # fmt: skip
