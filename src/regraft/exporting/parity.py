"""Whether an export answers as the model does: both on the same image files, each in its own runtime.

Enters: probabilities of both for N images, with labels. Leaves: a `Parity`, and whether it is within the limits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from regraft.evaluation.comparison import difference_of
from regraft.shown import Shown


@dataclass(frozen=True)
class Limits:
    """What an export in one precision must keep to.

    Attributes:
        agreement: Least share of images with the same likeliest class, 0..1.
        difference: Largest difference of a probability, 0..1.
        accuracy: Largest loss of accuracy, in shares of the images.
    """

    agreement: float
    difference: float
    accuracy: float


#: Of an export beside its run.
LIMITS: Mapping[str, Limits] = {
    "fp32": Limits(1.0, 1e-4, 0.0),
    "fp16": Limits(0.99, 0.05, 0.01),
    "int8": Limits(0.0, 1.0, 0.01),
}


#: Of an export beside what it answered itself when it was made, on another machine perhaps, whose processor adds up
#: numbers of fewer bits in another way.
AGAIN: Mapping[str, Limits] = {
    "fp32": LIMITS["fp32"],
    "fp16": LIMITS["fp16"],
    "int8": Limits(0.0, 0.15, 1.0),
}


@dataclass(frozen=True)
class Parity(Shown, by="regraft.pipeline.notebook.parity"):
    """How an export compares with its model.

    Attributes:
        precision: Of the export.
        images: Number of image files.
        agreement: Share with the same likeliest class.
        largest_difference: Of any probability.
        accuracy: Of the export, 0..1.
        model_accuracy: Of the model on the same images.
        accuracy_difference: Of the export less that of the model.
        accuracy_interval: 95 % interval of that, by Bonett and Price (see `evaluation.comparison`).
        differing: Names of images with another likeliest class, or a difference beyond the limit, the largest first.
        limits: What it must keep to.
    """

    precision: str
    images: int
    agreement: float
    largest_difference: float
    accuracy: float
    model_accuracy: float
    accuracy_difference: float
    accuracy_interval: tuple[float, float]
    differing: tuple[str, ...]
    limits: Limits

    @property
    def faults(self) -> list[str]:
        """What is beyond the limits, in words; none where the export is as good as its model."""
        limits, found = self.limits, []
        if self.agreement < limits.agreement:
            found.append(f"{100 * self.agreement:.2f} % of the answers agree; expected {100 * limits.agreement:g} %")
        if not self.largest_difference <= limits.difference:
            found.append(
                f"a probability differs by {self.largest_difference:.2g}; expected {limits.difference:g} at most"
            )
        if self.accuracy_difference < -limits.accuracy - 1e-12:
            lost = -100 * self.accuracy_difference
            found.append(f"accuracy is {lost:.2f} points lower; expected {100 * limits.accuracy:g} at most")
        return found

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, with the limits."""
        return asdict(self) | {
            "accuracy_interval": list(self.accuracy_interval),
            "differing": list(self.differing),
            "largest_difference": self.largest_difference if math.isfinite(self.largest_difference) else None,
            "faults": self.faults,
        }


def compare_answers(
    names: Sequence[str],
    labels: np.ndarray,
    model: np.ndarray,
    export: np.ndarray,
    precision: str,
    limits: Limits | None = None,
) -> Parity:
    """Compare the answers of a model and of its export.

    Args:
        names: Of N images, at least one.
        labels: Their classes, int64 (N,).
        model: Probabilities by the model, (N, C).
        export: By the export.
        precision: Of the export.
        limits: What it must keep to; default: those of `LIMITS`.
    """
    limits = limits or LIMITS[precision]
    apart = np.abs(export.astype(np.float64) - model).max(axis=1)
    apart = np.where(np.isnan(apart), np.inf, apart)
    ours, theirs = model.argmax(axis=1), export.argmax(axis=1)
    right, still = ours == labels, theirs == labels
    difference = difference_of(int((still & ~right).sum()), int((right & ~still).sum()), len(names))
    wrong = np.flatnonzero((ours != theirs) | (apart > limits.difference))
    return Parity(
        precision=precision,
        images=len(names),
        agreement=float((ours == theirs).mean()),
        largest_difference=float(apart.max()),
        accuracy=float(still.mean()),
        model_accuracy=float(right.mean()),
        accuracy_difference=difference.accuracy,
        accuracy_interval=difference.interval,
        differing=tuple(names[i] for i in wrong[np.argsort(-apart[wrong], kind="stable")]),
        limits=limits,
    )
