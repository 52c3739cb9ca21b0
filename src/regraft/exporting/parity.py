"""The parity gate: compares an export with its model on the same image files, each in its own runtime."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from regraft.evaluation.comparison import difference_of


@dataclass(frozen=True)
class Limits:
    """Limits, 0..1: lowest share of equal classes, largest difference of a probability, largest loss of accuracy."""

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
    """Comparison of an export with its model on the same images; shares, differences and accuracies are 0..1.

    `accuracy_difference` is the export's minus the model's, with its 95 % interval by Bonett and Price (see
    `evaluation.comparison`). `differing` names the images with another predicted class, or with a difference beyond the
    limit, the largest difference first.
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
    def exceeded_limits(self) -> list[str]:
        """The limits that are exceeded, each as a phrase; empty if the export passes."""
        limits, exceeded = self.limits, []
        if self.agreement < limits.agreement:
            exceeded.append(
                f"{100 * self.agreement:.2f} % of the predictions agree (limit {100 * limits.agreement:g} %)"
            )
        if not self.largest_difference <= limits.difference:  # NaN fails as well
            exceeded.append(f"a probability differs by {self.largest_difference:.2g} (limit {limits.difference:g})")
        if self.accuracy_difference < -limits.accuracy - 1e-12:
            loss = -100 * self.accuracy_difference
            exceeded.append(f"accuracy is {loss:.2f} points lower (limit {100 * limits.accuracy:g})")
        return exceeded

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values, with the limits and those that are exceeded."""
        return asdict(self) | {
            "accuracy_interval": list(self.accuracy_interval),
            "differing": list(self.differing),
            "largest_difference": self.largest_difference if math.isfinite(self.largest_difference) else None,
            "faults": self.exceeded_limits,
        }


def compare_predictions(
    names: Sequence[str], labels: np.ndarray, model: np.ndarray, export: np.ndarray, precision: str,
    limits: Limits | None = None,
) -> Parity:  # fmt: skip
    """Compare the probabilities (N, C) of a model and of its export for N >= 1 images with labels, int64 (N,).

    `limits` are by default those of `EXPORT_LIMITS` for the precision.
    """
    limits = limits or EXPORT_LIMITS[precision]
    differences = np.abs(export.astype(np.float64) - model).max(axis=1)
    differences = np.where(np.isnan(differences), np.inf, differences)
    model_classes, export_classes = model.argmax(axis=1), export.argmax(axis=1)
    model_right, export_right = model_classes == labels, export_classes == labels
    gained, lost = int((export_right & ~model_right).sum()), int((model_right & ~export_right).sum())
    change = difference_of(gained, lost, len(names))
    differing = np.flatnonzero((model_classes != export_classes) | (differences > limits.difference))
    return Parity(
        precision=precision, images=len(names), agreement=float((model_classes == export_classes).mean()),
        largest_difference=float(differences.max()), accuracy=float(export_right.mean()),
        model_accuracy=float(model_right.mean()), accuracy_difference=change.accuracy,
        accuracy_interval=change.interval, limits=limits,
        differing=tuple(names[i] for i in differing[np.argsort(-differences[differing], kind="stable")]),
    )  # fmt: skip
