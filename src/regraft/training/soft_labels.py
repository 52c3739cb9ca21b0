"""Give images without labels soft labels for the fit of the head, if cross-validation says that this helps.

Input: features of labeled images and of images without labels, (n + m, F). Output: a `Decision` with what
cross-validation measured, and soft labels with weights for the m images. Each held-out image is answered by a head that
was fitted without it; it is not in the graph.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from regraft.training.label_propagation import Neighbors, certainty, propagate
from regraft.training.linear_head import L2_VALUES, fit_path, past_minimum, stratified_folds
from regraft.training.losses import EpochMetrics, Objective, compute_metrics

#: Images without labels on which the decision rests, at most; all of them get labels.
MAX_SEARCH_IMAGES = 4000
_FOLDS = 5


@dataclass(frozen=True)
class Propagation:
    """How labels spread: along edges to the `neighbors` nearest images, a share `alpha` of them on each (0..1).

    An image without a label has on average `weight` times the weight of a labeled one, more if its label is certain.
    """

    neighbors: int
    alpha: float
    weight: float


#: What cross-validation compares (docs/decisions/unlabelled-images.md).
CANDIDATES = (Propagation(10, 0.8, 0.3), Propagation(10, 0.8, 1.0), Propagation(10, 0.95, 0.3))


@dataclass(frozen=True)
class Decision:
    """What cross-validation on the labeled images measured.

    Attributes:
        used: Whether the soft labels are used: the loss falls by more than its standard error, and the accuracy does
            not.
        propagation: The best candidate.
        l2: Its L2 strength with the lowest loss.
        accuracy_without: Accuracy of the head fitted on the labeled images alone, 0..1.
        accuracy_with: Accuracy with the best candidate, 0..1.
        loss_decrease: Mean decrease of the calibrated loss of an image.
        loss_error: Standard error of it.
    """

    used: bool
    propagation: Propagation
    l2: float
    accuracy_without: float
    accuracy_with: float
    loss_decrease: float
    loss_error: float

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def decide(
    neighbors: Neighbors,
    features: torch.Tensor,
    labels: np.ndarray,
    objective: Objective,
    *,
    groups: np.ndarray | None = None,
    seed: int = 0,
    on_fit: Callable[[int, int], None] = lambda done, total: None,
) -> Decision:
    """Compare heads without and with soft labels by cross-validation on the labeled images.

    Args:
        neighbors: The nearest images of each of the n + m images, more than the candidates need.
        features: Features of the labeled images, then of the others, float32 (n + m, F).
        labels: Classes of the first n images, int64 (n,).
        objective: The loss of the fit.
        groups: Numbers of sets that no fold divides, int64 (n,).
        seed: Seed of the folds, and of the images that are compared where there are many.
        on_fit: Called with the number of heads fitted so far, and of all.
    """
    count, classes = len(labels), len(objective.class_weights)
    others = np.arange(count, len(features))
    if len(others) > MAX_SEARCH_IMAGES:
        others = np.sort(np.random.default_rng(seed).choice(others, MAX_SEARCH_IMAGES, replace=False))
    fold = stratified_folds(labels, _FOLDS, groups=groups, seed=seed)
    numbers = np.unique(fold).tolist()
    true, results = torch.from_numpy(labels), list[tuple[EpochMetrics, float]]()
    for place, choice in enumerate((None, *CANDIDATES)):
        path: list[torch.Tensor] = []  # logits of the held-out images at each L2 strength, float32 (n, C)
        for step, number in enumerate(numbers):
            inside, outside = np.flatnonzero(fold != number), np.flatnonzero(fold == number)
            rows = inside if choice is None else np.concatenate([inside, others])
            targets, weights = true[inside], None
            if choice is not None:
                soft = soft_labels(neighbors.among(rows, choice.neighbors), labels[inside], classes, choice)
                targets, weights = soft.after(targets)
            held_out = (features[torch.from_numpy(outside)], true[outside])
            fitted = _logits_along_path(
                features[torch.from_numpy(rows)], targets, weights, objective, held_out, len(path) if step else None
            )
            path = path or [torch.zeros(count, classes) for _ in fitted]
            for logits, part in zip(path, fitted, strict=True):
                logits[outside] = part
            on_fit(place * len(numbers) + step + 1, (1 + len(CANDIDATES)) * len(numbers))
        metrics = [compute_metrics(objective, logits, true, calibrate=True) for logits in path]
        results.append(min(zip(metrics, L2_VALUES, strict=False), key=lambda result: result[0].loss))
    plain, with_soft = results[0][0], results[1:]
    best = min(range(len(CANDIDATES)), key=lambda i: float(np.mean(with_soft[i][0].calibrated_losses)))
    metrics_of_best, l2 = with_soft[best]
    gain, error = metrics_of_best.gain_over(plain)
    used = gain > error and metrics_of_best.accuracy >= plain.accuracy
    return Decision(used, CANDIDATES[best], l2, plain.accuracy, metrics_of_best.accuracy, gain, error)


def neighbors_needed() -> int:
    """Neighbors of each image from which every graph can be made, although a fold takes labeled images away."""
    return 2 * max(candidate.neighbors for candidate in CANDIDATES) + 8


def _logits_along_path(
    features: torch.Tensor,
    targets: torch.Tensor,
    weights: torch.Tensor | None,
    objective: Objective,
    held_out: tuple[torch.Tensor, torch.Tensor],
    length: int | None,
) -> list[torch.Tensor]:
    """Logits of held-out images by a head at each L2 strength, (k, C) on the CPU, from strong to weak.

    The path has `length` strengths, or ends where weaker ones make the loss worse.
    """
    logits: list[torch.Tensor] = []
    losses: list[float] = []
    l2_values = L2_VALUES[:length]
    for head in fit_path(
        features, targets, objective, weights=weights, val=held_out, l2_values=l2_values, consume=True, coarse=True
    ):
        assert head.val is not None
        logits.append((held_out[0] @ head.weight.T + head.bias).cpu())
        losses.append(head.val.loss)
        if length is None and past_minimum(losses):
            break
    return logits


@dataclass(frozen=True, eq=False)
class SoftLabels:
    """Class probabilities, float32 (m, C), and weights, float32 (m,), of images without labels."""

    probabilities: np.ndarray
    weights: np.ndarray

    def after(self, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Targets (n + m, C) and weights (n + m,) of labeled images, int64 (n,), which have weight 1, and of these."""
        one_hot = torch.nn.functional.one_hot(labels.cpu(), self.probabilities.shape[1]).float()
        return (
            torch.cat([one_hot, torch.from_numpy(self.probabilities)]).to(labels.device),
            torch.cat([torch.ones(len(labels)), torch.from_numpy(self.weights)]).to(labels.device),
        )


def soft_labels(neighbors: Neighbors, labels: np.ndarray, classes: int, propagation: Propagation) -> SoftLabels:
    """Spread labels, int64 (n,), to the other images of a graph."""
    probabilities = propagate(neighbors, labels, classes, alpha=propagation.alpha)
    certain = certainty(probabilities)
    return SoftLabels(probabilities, propagation.weight * certain / max(1e-6, float(certain.mean())))
