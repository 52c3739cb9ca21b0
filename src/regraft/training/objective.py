"""The loss, and how well logits do by it.

Enters: logits (N, C) and targets (N, C) that are class probabilities. Leaves: one number to minimise, or the scores
of an epoch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import minimize_scalar

from regraft.training.options import Loss


@dataclass(frozen=True)
class Objective:
    """A loss over target probabilities.

    Attributes:
        loss: `cross_entropy`, or `binary_cross_entropy` of each class against the rest, summed over the classes.
        label_smoothing: Share of the target that is spread over all classes (arXiv 1512.00567).
        class_weights: float32 (C,); an image weighs as much as its class.
    """

    loss: Loss
    label_smoothing: float
    class_weights: torch.Tensor

    def targets(self, labels: torch.Tensor) -> torch.Tensor:
        """One-hot rows, float32 (N, C), not smoothed."""
        return F.one_hot(labels, len(self.class_weights)).float()

    def per_image(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Loss of each image, unweighted, (N,)."""
        smoothing = self.label_smoothing
        if self.loss == "cross_entropy":
            smooth = targets * (1 - smoothing) + smoothing / targets.shape[1]
            return -(smooth * logits.log_softmax(dim=1)).sum(dim=1)
        smooth = targets * (1 - smoothing) + smoothing / 2
        return F.binary_cross_entropy_with_logits(logits, smooth, reduction="none").sum(dim=1)

    def __call__(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Weighted mean over the images, a scalar."""
        weights = targets @ self.class_weights.to(device=targets.device, dtype=targets.dtype)
        return (self.per_image(logits, targets) * weights).sum() / weights.sum()


def balanced_weights(labels: np.ndarray, classes: int, *, balanced: bool) -> torch.Tensor:
    """Weights by which every class counts the same: N / (C * n_c), as scikit-learn's `balanced`; or ones."""
    if not balanced:
        return torch.ones(classes)
    counts = np.bincount(labels, minlength=classes)
    return torch.from_numpy(len(labels) / (classes * np.maximum(counts, 1))).float()


@dataclass(frozen=True)
class Scores:
    """How well a model does on one part.

    Attributes:
        loss: Mean of the unsmoothed loss.
        accuracy: 0..1.
        macro_f1: 0..1.
        count: Number of images.
        loss_error: Standard error of the mean loss.
        refined: Loss of each image at the temperature that suits them all best: what a model knows, however sure of
            itself it is.
    """

    loss: float
    accuracy: float
    macro_f1: float
    count: int
    loss_error: float = 0.0
    refined: tuple[float, ...] = ()

    def value(self, monitor: str) -> float:
        """By the monitor's name, larger is better."""
        return {"val_loss": -self.loss, "val_accuracy": self.accuracy, "val_macro_f1": self.macro_f1}[monitor]

    def gain_over(self, other: Scores) -> tuple[float, float]:
        """By how much the refined loss of an image is lower than in `other`, and the standard error of that mean."""
        gains = np.asarray(other.refined) - np.asarray(self.refined)
        return float(gains.mean()), float(gains.std(ddof=min(1, len(gains) - 1)) / len(gains) ** 0.5)

    def noise(self, monitor: str) -> float:
        """One standard error of `value`; of a share, by the binomial law."""
        if monitor == "val_loss":
            return self.loss_error
        share = self.accuracy if monitor == "val_accuracy" else self.macro_f1
        return float((share * (1 - share) / max(1, self.count)) ** 0.5)


def score(objective: Objective, logits: torch.Tensor, labels: torch.Tensor, *, refine: bool = False) -> Scores:
    """Score logits (N, C) against class indices (N,); `refine` if the refined losses are wanted too."""
    plain = Objective(objective.loss, 0.0, torch.ones_like(objective.class_weights))
    logits, labels = logits.float().cpu(), labels.cpu()
    predicted = logits.argmax(dim=1)
    losses = plain.per_image(logits, plain.targets(labels)).double()
    return Scores(
        loss=float(losses.mean()),
        loss_error=float(losses.std(correction=0)) / max(1, len(losses)) ** 0.5,
        accuracy=float((predicted == labels).double().mean()),
        macro_f1=_macro_f1(labels, predicted),
        count=len(labels),
        refined=tuple(_refined(plain, logits, plain.targets(labels)).tolist()) if refine else (),
    )


def _refined(objective: Objective, logits: torch.Tensor, targets: torch.Tensor) -> np.ndarray:
    """Losses after temperature scaling on the same images (arXiv 1706.04599)."""

    def losses(log_temperature: float) -> np.ndarray:
        return objective.per_image(logits / math.exp(log_temperature), targets).double().numpy()

    found = minimize_scalar(lambda value: losses(value).mean(), bounds=(-3, 3), method="bounded")
    return losses(float(found.x))


def _macro_f1(labels: torch.Tensor, predicted: torch.Tensor) -> float:
    """Mean over the classes that appear of 2 * right / (labelled + predicted)."""
    count = int(torch.cat([labels, predicted]).max()) + 1
    right = torch.bincount(labels[labels == predicted], minlength=count)
    seen = torch.bincount(labels, minlength=count) + torch.bincount(predicted, minlength=count)
    return float((2 * right[seen > 0] / seen[seen > 0]).double().mean())
